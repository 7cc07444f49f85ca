import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.__main__ import main
from dalle_jax.commands.encode import encode_source
from dalle_jax.config.bind import load, loads
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.data.precomputed.manifest import read_manifest
from dalle_jax.data.records import Record
from dalle_jax.data.sources import array_record
from dalle_jax.data.sources.precomputed import Codes
from dalle_jax.images.pixels import to_float
from dalle_jax.images.png import encode_png
from dalle_jax.pipelines.load.models import load_image_tokenizer, read_model_file
from dalle_jax.runs import EncodeRun, TrainRun


def run(smoke_demo, *sets) -> EncodeRun:
    return load("smoke/encode.gin", EncodeRun, [f"image_tokenizer='{smoke_demo / 'tokenizer'}'", *sets])


@pytest.fixture(scope="module")
def written(smoke_demo, tmp_path_factory):
    """Encode into a folder; return the folder and the encoder."""
    out = tmp_path_factory.mktemp("codes") / "train"
    return out, encode_source(run(smoke_demo), out)


def test_codes_equal_those_of_the_tokenizer_in_verified_shards_and_it_compiles_once(smoke_demo, written):
    out, encoder = written
    config = run(smoke_demo)
    source, codes = config.source.open(), Codes(folder=str(out)).open()
    tokenizer = load_image_tokenizer(smoke_demo / "tokenizer")
    images = np.stack([source[index]["image"] for index in range(64)])
    expected = np.asarray(tokenizer.encode(to_float(jnp.asarray(images))))
    assert len(codes) == 64
    for index in range(64):
        example = codes[index]
        assert (example["key"], example["captions"]) == (source[index]["key"], source[index]["captions"])
        assert example["codes"].dtype == np.int32
        np.testing.assert_array_equal(example["codes"], expected[index])
    assert encoder.compiles() == 1
    assert sorted(one.name for one in out.glob("*.array_record")) == [
        f"codes-0000{n}-of-00003.array_record" for n in range(3)
    ]
    assert [shard.examples for shard in read_manifest(out).shards] == [24, 24, 16]


def test_a_mesh_that_splits_the_weights_writes_the_same_shards(smoke_demo, written, tmp_path):
    encoder = encode_source(run(smoke_demo, "mesh.data=2", "mesh.fsdp=4"), tmp_path / "codes")
    assert encoder.compiles() == 1
    assert read_manifest(tmp_path / "codes").shards == read_manifest(written[0]).shards


def test_a_finished_folder_is_unchanged_and_a_damaged_shard_is_named_and_encoded_again(smoke_demo, written, tmp_path):
    out = tmp_path / "codes"
    shutil.copytree(written[0], out)
    before = {one.name: one.stat().st_mtime_ns for one in out.glob("*.array_record")}
    assert encode_source(run(smoke_demo), out) is None
    assert {one.name: one.stat().st_mtime_ns for one in out.glob("*.array_record")} == before
    content = bytearray((out / "codes-00001-of-00003.array_record").read_bytes())
    content[len(content) // 3] ^= 1
    (out / "codes-00001-of-00003.array_record").write_bytes(content)
    with pytest.raises(UserError, match=r"codes-00001-of-00003\.array_record of 3 shards are damaged"):
        Codes(folder=str(out)).open()
    assert encode_source(run(smoke_demo), out) is not None
    assert read_manifest(out) == read_manifest(written[0])
    after = {one.name: one.stat().st_mtime_ns for one in out.glob("*.array_record")}
    assert [name for name in before if after[name] != before[name]] == ["codes-00001-of-00003.array_record"]
    assert len(Codes(folder=str(out)).open()) == 64


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("source.seed=1", "source was scenes-"),
        ("image_size=16", r"image_size was 32 and is 16; grid was \(4, 4\) and is \(2, 2\)"),
        ("shard_examples=10", "shard_examples was 24 and is 10"),
    ],
)
def test_a_changed_source_or_setting_is_refused(smoke_demo, written, change, said):
    with pytest.raises(UserError, match=said):
        encode_source(run(smoke_demo, change), written[0])


def test_a_changed_tokenizer_is_refused_by_encoding_and_by_training(smoke_demo, written, tmp_path, capsys):
    other = tmp_path / "tokenizer"
    assert main(["train", "smoke/tokenizer.gin", "--set", "trainer.seed=5", "--out", str(other)]) == 0
    with pytest.raises(UserError, match=r"tokenizer was tokenizer-.* and is tokenizer-"):
        encode_source(run(smoke_demo, f"image_tokenizer='{other}'"), written[0])
    assert train(smoke_demo, tmp_path / "x", *of_codes(written[0]), f"task.image_tokenizer='{other}'") == 2
    assert "task.image_tokenizer: expected tokenizer-" in capsys.readouterr().err


def test_a_second_process_is_refused_while_one_writes(smoke_demo, tmp_path, monkeypatch):
    from dalle_jax.commands import encode as command

    whole, refused = command.encode, []

    def and_another(*of):
        with pytest.raises(UserError, match=r"got a folder locked by `encode` \(process \d+ on .*\); wait"):
            encode_source(run(smoke_demo), tmp_path / "codes")
        refused.append(True)
        return whole(*of)

    monkeypatch.setattr(command, "encode", and_another)
    assert encode_source(run(smoke_demo), tmp_path / "codes") is not None
    assert refused == [True]
    assert len(Codes(folder=str(tmp_path / "codes")).open()) == 64


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("image_size=30", "image_size: expected a multiple of 8"),
        ("crops=2", "crops: expected 1, since the source shows the same image"),
        ("crops=0", "crops: expected at least 1"),
        ("shard_examples=0", "shard_examples: expected at least 1"),
    ],
)
def test_a_source_that_cannot_be_encoded_is_one_error(smoke_demo, tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        encode_source(run(smoke_demo, change), tmp_path / "codes")


def test_a_folder_of_other_files_is_left_unchanged(smoke_demo, tmp_path):
    (tmp_path / "mine.array_record").write_bytes(b"x")
    with pytest.raises(UserError, match="expected an empty folder, or one of an earlier `encode` run"):
        encode_source(run(smoke_demo), tmp_path)
    with pytest.raises(UserError, match="expected codes from a finished `encode` run"):
        Codes(folder=str(tmp_path)).open()


def of_codes(folder) -> list[str]:
    """Return settings that train a transformer of the smoke runs on codes."""
    return [
        "data.source=@Codes",
        f"data.source.folder='{folder}'",
        "data.evaluation=@Codes",
        f"data.evaluation.folder='{folder}'",
        "task.image_tokenizer=None",
        "task.image_size=None",
    ]


def train(smoke_demo, out, *sets) -> int:
    fixed = [
        f"task.captions.file='{smoke_demo / 'text.model'}'",
        "data.batch_size=8",
        "trainer.steps=10",
        "mesh.data=1",
        "trainer.evaluate_every=None",
    ]
    return main(["train", "smoke/dalle_bart.gin", "--out", str(out), *(f"--set={one}" for one in (*fixed, *sets))])


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def test_training_from_codes_equals_training_from_images_and_the_model_samples(smoke_demo, written, tmp_path):
    tokenizer = f"task.image_tokenizer='{smoke_demo / 'tokenizer'}'"
    from_images, from_codes = tmp_path / "images", tmp_path / "codes"
    assert train(smoke_demo, from_images, tokenizer, "trainer.images_every=None") == 0
    assert train(smoke_demo, from_codes, *of_codes(written[0])) == 0
    assert len(losses(from_images)) == 10
    np.testing.assert_allclose(losses(from_codes), losses(from_images), rtol=1e-5)
    assert read_model_file(from_codes).needs == {"image_tokenizer": str(smoke_demo / "tokenizer")}
    assert list((from_codes / "images").iterdir())
    saved = loads((from_codes / "config.gin").read_text(), TrainRun, name="config.gin")
    assert saved.task.image_tokenizer == str(smoke_demo / "tokenizer")  # the config that was given has None
    assert render(saved) == (from_codes / "config.gin").read_text()
    prompt = ["--prompt", "a red circle", "--candidates", "2", "--keep", "1", "--out", str(tmp_path / "drawn")]
    assert main(["sample", "--model", str(from_codes), *prompt]) == 0
    assert (tmp_path / "drawn" / "grid.png").is_file()


def test_codes_that_do_not_fit_the_task_are_named(smoke_demo, written, tmp_path, capsys):
    codes = of_codes(written[0])
    for setting, said in (
        ("task.model.codebook_size=64", "expected codebook_size 32 and grid (4, 4), as the manifest of the codes says"),
        ("task.model.grid=(4, 5)", "got 32 and (4, 5)"),
        ("task.image_tokenizer='runs/gone'", "found none in runs/gone; set it to the new folder of the image"),
    ):
        assert train(smoke_demo, tmp_path / "x", *codes, setting) == 2
        assert said in capsys.readouterr().err
    assert train(smoke_demo, tmp_path / "x", *codes, "data.evaluation=@Scenes") == 2
    assert "expected codes in both source and evaluation" in capsys.readouterr().err
    sets = [f"--set={one}" for one in codes[:4]]
    assert main(["train", "smoke/tokenizer.gin", "--out", str(tmp_path / "x"), *sets]) == 2
    assert (
        "expected data of images for TokenizeImages, got precomputed codes; train it from images"
        in capsys.readouterr().err
    )


def test_training_and_held_out_records_are_encoded_and_used_in_training(smoke_demo, tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = [encode_png(rng.integers(0, 256, (40, 36, 3), np.uint8)) for _ in range(30)]
    images[11] = b"<html>"
    array_record.write(tmp_path / "a.array_record", [Record(str(n), one, ("x",), {}) for n, one in enumerate(images)])
    common = [
        f"--set=source.files=('{tmp_path / 'a.array_record'}',)",
        f"--set=image_tokenizer='{smoke_demo / 'tokenizer'}'",
    ]
    training, held_out = tmp_path / "training", tmp_path / "held_out"
    assert main(["encode", "smoke/encode_images.gin", "--out", str(training), *common]) == 0
    of_held_out = ["--set=part=held_out", "--set=crops=1"]
    assert main(["encode", "smoke/encode_images.gin", "--out", str(held_out), *common, *of_held_out]) == 0
    said = capsys.readouterr().out
    assert "source: 30 of 30 records read; bad: 1 not an image" in said
    assert [one["key"] for one in json.loads((training / "records.json").read_text())["source"]["report"]["bad"][
        "not an image"]["records"]] == ["a.array_record:11"]  # fmt: skip
    keys = [[source[i]["key"] for i in range(len(source))] for source in (opened(training), opened(held_out))]
    assert len(keys[1]) == 8
    assert sorted(keys[0] + keys[1]) == sorted(f"a.array_record:{n}" for n in range(30) if n != 11)
    assert not np.array_equal(opened(training).example(0, 0)["codes"], opened(training).example(0, 1)["codes"])
    sets = [*of_codes(training), f"data.evaluation.folder='{held_out}'", "trainer.steps=2"]
    assert train(smoke_demo, tmp_path / "run", *sets) == 0


def opened(folder):
    return Codes(folder=str(folder)).open()


def test_a_work_folder_is_refused_unless_out_is_a_url(tmp_path, capsys):
    assert main(["encode", "smoke/encode.gin", "--out", str(tmp_path / "codes"), "--work", str(tmp_path / "work")]) == 2
    assert "--work: expected no folder, because codes are written directly to" in capsys.readouterr().err
