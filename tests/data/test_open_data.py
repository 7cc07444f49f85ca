"""Opening of data: the records that a config gives, and their order for any number of hosts and threads."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.data.examples import index as record_index
from dalle_jax.data.examples.held_out import HeldOut
from dalle_jax.data.examples.images import Images
from dalle_jax.data.examples.record_filters import Filters
from dalle_jax.data.mixture import Mixture, MixturePart
from dalle_jax.data.sources.scenes import Scenes
from dalle_jax.data.sources.webdataset import WebDataset
from dalle_jax.models.vqvae import VqvaeConfig
from dalle_jax.runs import Data, TrainRun
from dalle_jax.tasks.tokenizers.tokenize_images import TokenizeImages
from dalle_jax.train import loop
from dalle_jax.train.checkpoints.checkpoints import Meta
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.trainer import Trainer
from tests.data.damaged import KINDS, shard

SCENES = Scenes(size=16, levels=(1,), count=64, seed=0, split="train")
BAD = {number: KINDS[place % 6] for place, number in enumerate(range(3, 60, 5))}
"""Twelve bad records of sixty, two of each kind."""
IMAGES = Images(size=16, bad_share=0.5, validate="pixels")


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    shard(folder / "0.tar", 0, 30, BAD)
    shard(folder / "1.tar", 30, 30, BAD)
    return str(folder)


def data(tars, **changes):
    kept = {"source": WebDataset((tars,)), "evaluation": HeldOut(count=8), "batch_size": 8, "images": IMAGES}
    return Data(**{**kept, **changes})


def mixed(parts):
    return Mixture({name: MixturePart(source, weight) for name, (source, weight) in parts.items()})


def keys(loader, steps):
    return [loader.batch(step)["key"] for step in range(steps)]


def numbers(batches):
    return [int(key) for batch in batches for key in batch]


GOOD = sorted(set(range(60)) - BAD.keys())


def test_every_usable_record_comes_once_per_epoch_and_no_other_does(tars):
    loader = data(tars, batch_size=8).open()
    held = {int(key) for batch in loader.evaluation_batches() for key in batch["key"]}
    order = numbers(keys(loader, 15))
    assert len(held) == 8 and held < set(GOOD)
    for epoch in range(3):
        assert sorted(order[epoch * 40 : (epoch + 1) * 40]) == sorted(set(GOOD) - held)
    assert order[:40] != order[40:80]


@pytest.mark.parametrize("validate", ["pixels", "headers", "none"])
def test_any_number_of_hosts_and_threads_gives_the_same_batches(tars, validate):
    images = replace(IMAGES, validate=validate)
    whole = [data(tars, images=images).open().batch(step) for step in range(8)]
    for hosts, workers in ((1, 1), (2, 4), (4, 1)):
        rows = np.split(np.arange(8), hosts)
        loaders = [data(tars, images=images, workers=workers).open() for _ in rows]
        for step, one in enumerate(whole):
            parts = [loader.batch(step, own.tolist()) for loader, own in zip(loaders, rows, strict=True)]
            for name in ("key", "caption", "caption_group"):
                assert [value for part in parts for value in part[name]] == one[name]
            pixels = [image for part in parts for image in part["image"]]
            np.testing.assert_array_equal(np.stack(pixels), np.stack(one["image"]))


def test_after_validation_of_headers_broken_pixels_have_the_same_substitute_in_each_epoch(tars):
    loader = data(tars, images=replace(IMAGES, validate="headers")).open()
    truncated = {number for number, kind in BAD.items() if kind == "truncated"}
    held = {int(key) for batch in loader.evaluation_batches() for key in batch["key"]}
    usable = len(GOOD) + len(truncated) - 8
    order = numbers(keys(loader, 3 * usable // 8 + 1))[: 3 * usable]
    epochs = [Counter(order[epoch * usable : (epoch + 1) * usable]) for epoch in range(3)]
    assert epochs[0] == epochs[1] == epochs[2]
    assert epochs[0].keys() == set(GOOD) - held
    assert sum(epochs[0].values()) - len(epochs[0]) == len(truncated) == 2


def test_filters_drop_records_before_the_first_step_and_are_counted(tars, tmp_path):
    images = replace(IMAGES, filters=Filters(min_similarity=0.020))
    loader = data(tars, images=images).open(tmp_path)
    kept = {number for number in GOOD if number >= 20}
    held = {int(key) for batch in loader.evaluation_batches() for key in batch["key"]}
    assert set(numbers(keys(loader, 20))) == kept - held
    assert held < kept
    name, content, line = loader.report()
    report = json.loads(content)["source"]["report"]
    assert name == "records.json"
    assert report["dropped"]["similarity"]["count"] == len([number for number in GOOD if number < 20])
    assert report["bad"]["broken json"]["count"] == 2
    assert "16 similarity (00000, 00001, 00002, …); 6 no similarity (00003, 00008, 00013, …)" in line


def test_the_report_names_every_bad_record_of_every_kind(tars, tmp_path):
    loader = data(tars).open(tmp_path)
    report = json.loads(loader.report()[1])["source"]["report"]
    found = {kind: {int(record["key"]) for record in one["records"]} for kind, one in report["bad"].items()}
    assert found == {kind: {number for number, one in BAD.items() if one == kind} for kind in KINDS}
    assert report["read"] == 60


def test_the_index_of_records_is_stored_once_and_built_again_if_damaged(tars, tmp_path, monkeypatch):
    first = keys(data(tars).open(tmp_path), 4)
    (stored,) = tmp_path.glob("usable-*")
    checks = []
    check = record_index._check_records
    monkeypatch.setattr(record_index, "_check_records", lambda *given: checks.append(given) or check(*given))
    assert keys(data(tars).open(tmp_path), 4) == first and not checks
    content = stored.read_bytes()
    stored.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert keys(data(tars).open(tmp_path), 4) == first and len(checks) == 1
    assert stored.read_bytes() == content


def test_evaluation_uses_the_centre_crop_and_does_not_depend_on_the_seed_of_training(tars):
    loader, other = data(tars).open(), data(tars, seed=5, workers=2).open()
    one, two = (next(iter(loaded.evaluation_batches())) for loaded in (loader, other))
    assert one["key"] == two["key"]
    np.testing.assert_array_equal(np.stack(one["image"]), np.stack(two["image"]))
    assert one["image"][0].shape == (16, 16, 3)


def test_too_many_bad_records_stop_the_run_before_the_first_step(tars):
    with pytest.raises(UserError, match=r"12 of 60 records are bad, 20\.0%, but bad_share allows 10\.0%: 2 trunc"):
        data(tars, images=replace(IMAGES, bad_share=0.1)).open()


def test_without_validation_all_hosts_stop_together(tars):
    loader = data(tars, images=replace(IMAGES, bad_share=0.1, validate="none")).open()
    keys(loader, 9)
    with pytest.raises(UserError, match=r"\d+ of \d+ records are bad, 2\d\.\d%"):
        loader.stop_together()


def test_a_resumed_run_continues_the_report_of_its_folder(tars, tmp_path):
    config = data(tars, images=replace(IMAGES, validate="headers"))
    first = config.open(tmp_path)
    keys(first, 8)
    (tmp_path / "records.json").write_bytes(first.report()[1])
    again = json.loads(config.open(tmp_path).report()[1])["source"]["report"]
    assert again["bad"]["truncated"]["count"] == 2
    again = config.open(tmp_path)
    keys(again, 8)
    assert again.report()[1] == first.report()[1]


def test_the_fingerprint_changes_with_the_held_out_and_the_dropped_records(tars):
    changes = [
        {},
        {"evaluation": HeldOut(count=9)},
        {"evaluation": HeldOut(count=8, seed=1)},
        {"evaluation": WebDataset((f"{tars}/1.tar",))},
        {"images": replace(IMAGES, filters=Filters(min_similarity=0.002))},
        {"source": mixed({"tars": (WebDataset((tars,)), 1.0), "scenes": (SCENES, 1.0)}), "evaluation": SCENES},
    ]
    assert len({data(tars, **change).open().fingerprint() for change in changes}) == len(changes)
    assert data(tars, workers=3).open().fingerprint() == data(tars).open().fingerprint()


def test_a_mixture_has_records_and_rendered_scenes_in_proportion_to_their_weights(tars):
    mixture = mixed({"tars": (WebDataset((tars,)), 3.0), "scenes": (SCENES, 1.0)})
    loader = data(tars, source=mixture, evaluation=WebDataset((f"{tars}/1.tar",))).open()
    for step in range(4):
        assert sum(key.startswith("train/") for key in loader.batch(step)["key"]) == 2
    assert set(json.loads(loader.report()[1])) == {"source.parts.tars", "evaluation"}


def test_examples_held_out_of_each_source_of_a_mixture_are_never_trained_on(tars):
    first, second = (WebDataset((f"{tars}/{number}.tar",)) for number in (0, 1))
    loader = data(tars, source=mixed({"a": (first, 3.0), "b": (second, 1.0)}), evaluation=HeldOut(share=0.3)).open()
    held = set(numbers(batch["key"] for batch in loader.evaluation_batches()))
    alone = data(tars, evaluation=HeldOut(share=0.3), batch_size=4).open()
    assert held == set(numbers(batch["key"] for batch in alone.evaluation_batches())) and len(held) == 16
    assert {number < 30 for number in held} == {True, False}
    seen = set(numbers(keys(loader, 24)))
    assert seen == set(GOOD) - held


@pytest.mark.parametrize("nothing", [None, HeldOut(count=0), HeldOut(share=0.0)], ids=["None", "count", "share"])
def test_with_nothing_held_out_every_record_is_trained_on_and_the_log_says_so(tars, nothing, capsys):
    loader = data(tars, evaluation=nothing, batch_size=64).open()
    assert list(loader.evaluation_batches()) == []
    assert sorted(numbers(keys(loader, 3)))[::4] == GOOD  # 192 of 48 are four epochs
    said = capsys.readouterr().out
    assert "data.evaluation: no images are held out" in said
    assert "data.batch_size: 64 with 48 images to train on" in said


def test_a_partial_batch_of_held_out_records_is_evaluated(tars):
    loader = data(tars, evaluation=HeldOut(count=13)).open()
    assert [len(batch["key"]) for batch in loader.evaluation_batches()] == [8, 5]
    assert len(set(numbers(batch["key"] for batch in loader.evaluation_batches()))) == 13


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": None}, r"data\.images: expected data\.images = @Images"),
        ({"source": SCENES}, r"data\.evaluation: expected a source of its own.*data\.source is a Scenes"),
        ({"source": SCENES, "evaluation": SCENES}, r"data\.images: expected None"),
        ({"evaluation": HeldOut(count=60)}, r"data\.evaluation: expected some .* got all 48 held out; .* = None"),
        ({"source": WebDataset(("nowhere/*.tar",))}, r"found nothing for nowhere"),
        ({"images": replace(IMAGES, filters=Filters(min_side=99))}, r"got none of 60 .*dropped: 50 side"),
        ({"source": mixed({"a": (SCENES, 1.0)})}, r"a source of its own.*data\.source\.parts\.a is a Scenes"),
        ({"workers": -1}, r"data.workers: expected at least 0"),
    ],
)
def test_unusable_data_is_a_user_error_that_names_the_field(tars, changes, said):
    with pytest.raises(UserError, match=said):
        data(tars, **changes).open()


def test_images_of_a_different_size_than_the_task_needs_are_refused(tars):
    text = (
        "task = @TokenizeImages\ntask.image_size = 32\ntask.model.downsample = 8\ntask.model.width = 16\n"
        "task.model.blocks = 1\ntask.model.codebook_size = 32\ntask.model.code_width = 8\n"
        "data.source = @WebDataset\ndata.source.files = ('x.tar',)\ndata.evaluation = @HeldOut\n"
        "data.evaluation.share = 0.1\ndata.images = @Images\ndata.images.size = 16\ndata.batch_size = 2\n"
        "trainer.steps = 2\ntrainer.schedule = @ConstantRate\ntrainer.schedule.rate = 1e-3\n"
    )
    with pytest.raises(UserError, match=r"data\.images\.size: expected 32, the task's image size, got 16"):
        loads(text, TrainRun)
    assert loads(text, TrainRun, sets=["data.images.size=32"]).data.evaluation == HeldOut(share=0.1)
    without = "\n".join(line for line in text.splitlines() if "evaluation" not in line)
    with pytest.raises(UserError, match=r"data\.evaluation is not chosen; expected.*@HeldOut"):
        loads(without, TrainRun)


def test_resuming_with_other_data_is_refused_with_the_line_that_changed(tars, tmp_path):
    config = data(tars)
    changes = {
        r"had 'data\.evaluation\.count = 8'": data(tars, evaluation=HeldOut(count=9)),
        r"had 'data\.images\.crop = 'random''|had \"data\.images\.crop": data(
            tars, images=replace(IMAGES, crop="centre")
        ),
        r"had \"data\.source\.caption": data(tars, source=WebDataset((tars,), caption=("txt", "json"))),
        r"the config is the same, so the content of its files has changed": config,
    }
    model = VqvaeConfig(downsample=8, width=16, blocks=1, codebook_size=32, code_width=8)
    task = TokenizeImages(model, image_size=16)
    trainer = Trainer(steps=1, schedule=ConstantRate(1e-3))
    before = Meta(render(TrainRun(task, config, trainer)), config.open().fingerprint(), 0, {})
    for expected, changed in changes.items():
        fingerprint = "other" if changed is config else changed.open().fingerprint()
        with pytest.raises(UserError, match=expected):
            loop.check_same_run(before, Meta(render(TrainRun(task, changed, trainer)), fingerprint, 0, {}), tmp_path)


def test_a_run_resumes_with_another_recommended_guidance_but_not_with_another_model(tmp_path):
    def meta(*lines: str) -> Meta:
        return Meta("", "data", 0, {"model.gin": "\n".join(["width = 8", *lines]).encode() + b"\n"})

    before = meta("sampling = None")
    loop.check_same_run(before, meta("sampling = @RecommendedSampling", "sampling.guidance = 1.5"), tmp_path)
    with pytest.raises(UserError, match=r"model\.gin: had 'nothing', now has 'depth = 2'"):
        loop.check_same_run(before, meta("depth = 2"), tmp_path)
