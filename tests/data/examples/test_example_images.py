import io
import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dalle_jax.config.errors import UserError
from dalle_jax.data.examples.caption_blend import Blend
from dalle_jax.data.examples.images import Images
from dalle_jax.data.examples.record_filters import Filters
from dalle_jax.data.loader import Loader
from dalle_jax.data.records import BadRecord, Record, Records
from dalle_jax.data.seeded_hash import draw
from dalle_jax.data.source import EpochSource, Source
from dalle_jax.images.crops import centre_box, crop_image, random_box
from dalle_jax.images.decode import decode
from dalle_jax.images.header import Limits


def image(index, height=20, width=30, kind="PNG"):
    pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format=kind)
    return out.getvalue()


def cropped(content, box, size):
    return crop_image(Image.fromarray(decode(content)), box, size)


class Made:
    """Records made when they are read, some of them changed. ``reads`` counts the reads of each."""

    def __init__(self, count, changed=None, problems=(), name="made"):
        self.count, self.changed, self.problems, self.name = count, changed or {}, tuple(problems), name
        self.reads = Counter()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads[index] += 1
        change = self.changed.get(index, {})
        if isinstance(change, Exception):
            raise change
        own = {"key": f"k{index}", "image": None, "captions": (f"caption {index}",), "metadata": {}}
        made = {**own, **change}
        return Record(**{**made, "image": image(index) if made["image"] is None else made["image"]})

    def fingerprint(self):
        return self.name


CONFIG = Images(size=8, seed=3)
WRONG = {
    "truncated": image(1)[:-20],
    "not an image": b"<html>gone</html>",
    "too many pixels": b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\1\x86\xa0\0\1\x86\xa0\x08\2\0\0\0" + bytes(4),
}


def test_an_example_is_the_crop_of_its_epoch_and_index():
    source = CONFIG.source_of(Made(10))
    assert isinstance(source, Source) and isinstance(source, EpochSource) and isinstance(Made(1), Records)
    for index, epoch in ((0, 0), (7, 0), (7, 3)):
        example = source.example(index, epoch)
        box = random_box(30, 20, 8, random.Random(draw(3, epoch, index)))
        assert box == source.box(index, epoch, 30, 20)
        np.testing.assert_array_equal(example["image"], cropped(image(index), box, 8))
        assert example["key"] == f"k{index}" and example["captions"] == [f"caption {index}"]
    np.testing.assert_array_equal(source[7]["image"], source.example(7, 0)["image"])
    assert len({source.example(7, epoch)["image"].tobytes() for epoch in range(8)}) > 4


def test_the_centre_crop_is_the_same_in_every_epoch():
    source = replace(CONFIG, crop="centre").source_of(Made(3))
    np.testing.assert_array_equal(source[2]["image"], cropped(image(2), centre_box(30, 20), 8))
    np.testing.assert_array_equal(source.example(2, 9)["image"], source[2]["image"])


def test_crops_are_chosen_for_the_size_of_the_upright_image():
    exif = Image.Exif()
    exif[274] = 6
    out = io.BytesIO()
    Image.open(io.BytesIO(image(0, 20, 40))).save(out, format="PNG", exif=exif)
    source = replace(CONFIG, crop="centre").source_of(Made(1, {0: {"image": out.getvalue()}}))
    np.testing.assert_array_equal(source[0]["image"], cropped(out.getvalue(), centre_box(20, 40), 8))


def test_a_jpeg_decoded_at_a_reduced_size_has_nearly_the_same_pixels():
    y, x = np.mgrid[:400, :600]
    out = io.BytesIO()
    smooth = np.stack([x * 0.4, y * 0.6, (x + y) * 0.2], axis=2).astype(np.uint8)
    Image.fromarray(smooth).save(out, format="JPEG", quality=95)
    records = Made(1, {0: {"image": out.getvalue()}})
    whole, reduced = (replace(CONFIG, size=32, reduced_jpeg=value).source_of(records) for value in (False, True))
    for epoch in range(5):
        one, other = whole.example(0, epoch)["image"].astype(int), reduced.example(0, epoch)["image"].astype(int)
        assert np.abs(one - other).max() <= 4
        assert (one != other).any()  # or it was not reduced


def bad_records(count, every):
    kinds = [{"image": content} for content in WRONG.values()] + [BadRecord("k", "no caption", "there is none")]
    return {index: kinds[index // every % 4] for index in range(0, count, every)}


def test_a_bad_record_has_the_same_substitute_everywhere_and_is_counted_once():
    changed = bad_records(200, 10)
    records = Made(200, changed)
    source, other = (replace(CONFIG, bad_share=0.2).source_of(one) for one in (records, Made(200, changed)))
    keys = [source[index]["key"] for index in range(200)]
    assert keys == [other[index]["key"] for index in reversed(range(200))][::-1]
    assert all(key == f"k{index}" for index, key in enumerate(keys) if index % 10)
    instead = [keys[index] for index in range(0, 200, 10)]
    assert not set(instead) & {f"k{index}" for index in changed} and len(set(instead)) > 15
    again = [source.example(index, 1)["key"] for index in range(200)]
    assert again == keys
    assert all(records.reads[index] == 1 for index in changed)
    content = source.report.content()
    assert content["read"] == 200 and content["dropped"] == {}
    assert {kind: one["count"] for kind, one in content["bad"].items()} == dict.fromkeys([*WRONG, "no caption"], 5)
    assert {record["key"] for record in content["bad"]["truncated"]["records"]} == {"k0", "k40", "k80", "k120", "k160"}
    assert source.report.counts() == other.report.counts() == (200, 20)


def test_the_report_is_written_as_json_with_keys_and_reasons(tmp_path):
    source = replace(CONFIG, bad_share=0.2).source_of(
        Made(60, bad_records(60, 6), [BadRecord("twice", "duplicate key", "x")])
    )
    for index in range(60):
        source[index]
    source.report.write(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert read == source.report.content() and read["read"] == 60
    assert read["bad"]["duplicate key"] == {"count": 1, "records": [{"key": "twice", "reason": "x"}]}
    assert read["bad"]["not an image"]["records"][0]["reason"].startswith("expected JPEG")


def read_all(source, count):
    for index in range(count):
        source[index]


def test_a_run_with_more_than_bad_share_stops_and_names_the_faults():
    source = replace(CONFIG, bad_share=0.05).source_of(Made(1000, bad_records(1000, 10)))
    expected = r"1\d of 10\d records are bad.*allows 5.0%: \d truncated \(k0, .*Fix or remove them"
    with pytest.raises(UserError, match=expected):
        read_all(source, 1000)


def test_bad_share_is_enforced_after_100_reads_or_after_all_records_of_a_small_source():
    source = replace(CONFIG, bad_share=0.3).source_of(Made(1000, {index: {"image": b"?"} for index in range(40)}))
    read_all(source, 40)
    assert source.report.counts()[1] == 40
    with pytest.raises(UserError, match=r"40 of 100 records are bad, 40\.0%"):
        read_all(source, 1000)
    small = replace(CONFIG, bad_share=0.3).source_of(Made(10, {index: {"image": b"?"} for index in range(4)}))
    with pytest.raises(UserError, match=r"4 of 10 records are bad, 40\.0%"):
        read_all(small, 10)


def test_too_many_problems_stop_the_run_before_any_record_is_read():
    records = Made(10, problems=[BadRecord(f"p{i}", "link", "a link") for i in range(5)])
    with pytest.raises(UserError, match=r"5 of 15 records are bad, 33.3%.*5 link \(p0, p1, p2, …\)"):
        replace(CONFIG, bad_share=0.3).source_of(records)
    assert replace(CONFIG, bad_share=0.34).source_of(records).report.content()["bad"]["link"]["count"] == 5
    assert not records.reads


def test_dropped_records_have_substitutes_and_do_not_count_as_bad():
    changed = {
        1: {"metadata": {"similarity": 0.1}},
        2: {"image": image(0, 20, 50)},
        3: {"captions": ("x",)},
        4: {"metadata": {}},
    }
    records = {index: {"metadata": {"similarity": 0.5}} | changed.get(index, {}) for index in range(30)}
    filters = Filters(min_similarity=0.3, max_aspect=2.0, min_characters=3)
    source = replace(CONFIG, filters=filters, bad_share=0.0).source_of(Made(30, records))
    keys = [source[index]["key"] for index in range(30)]
    assert not {"k1", "k2", "k3", "k4"} & set(keys)
    dropped = source.report.content()["dropped"]
    assert {name: [one["key"] for one in kind["records"]] for name, kind in dropped.items()} == {
        "similarity": ["k1"],
        "aspect": ["k2"],
        "caption length": ["k3"],
        "no similarity": ["k4"],
    }
    assert source.report.counts() == (30, 0)


def test_if_no_record_is_usable_the_error_names_the_filters():
    source = replace(CONFIG, filters=Filters(min_side=21)).source_of(Made(12))
    with pytest.raises(UserError, match=r"none among 12 records \(bad: none; dropped: 12 side \(k"):
        source[0]


def test_captions_outside_the_permitted_lengths_are_not_given():
    records = Made(1, {0: {"captions": ("no", "a dog", "one dog")}})
    assert replace(CONFIG, filters=Filters(min_characters=3)).source_of(records)[0]["captions"] == ["a dog", "one dog"]


def test_blended_captions_change_with_the_epoch_and_reach_the_batches():
    changed = {index: {"metadata": {"synthetic": f"made {index}"}} for index in range(40)}
    source = replace(CONFIG, blend=Blend(weights=(0.75, 0.25))).source_of(Made(40, changed))
    loader = Loader(source, None, 40, seed=1)
    words = Counter()
    for epoch in range(10):
        batch = loader.batch(epoch)
        for key, caption, image in zip(batch["key"], batch["caption"], batch["image"], strict=True):
            index = int(key[1:])
            assert caption == source.example(index, epoch)["captions"][0] and caption.endswith(str(index))
            np.testing.assert_array_equal(image, source.example(index, epoch)["image"])
            words[caption.split()[0]] += 1
    assert words["made"] / 400 == pytest.approx(0.75, abs=0.09)


def test_a_record_without_any_of_the_blended_captions_is_bad():
    source = replace(CONFIG, blend=Blend(("synthetic",), (1.0,)), bad_share=0.9).source_of(
        Made(2, {0: {"metadata": {"synthetic": "made"}}})
    )
    assert source[1]["key"] == "k0"
    assert source.report.content()["bad"]["no caption"]["records"][0]["key"] == "k1"


def test_threads_get_the_same_examples_and_count_each_record_once():
    changed = bad_records(120, 10)
    alone = [replace(CONFIG, bad_share=0.2).source_of(Made(120, changed))[index] for index in range(120)]
    source = replace(CONFIG, bad_share=0.2).source_of(Made(120, changed))
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda index: source[index % 120], range(240)))
    for one, other in zip(alone * 2, together, strict=True):
        assert one["key"] == other["key"]
        np.testing.assert_array_equal(one["image"], other["image"])
    assert source.report.counts() == (120, 12)


def test_the_fingerprint_changes_with_everything_that_changes_an_example():
    changes = (
        {},
        {"size": 9},
        {"seed": 4},
        {"crop": "centre"},
        {"background": (0, 0, 0)},
        {"reduced_jpeg": True},
        {"limits": Limits(side=50)},
        {"filters": Filters(min_side=2)},
        {"blend": Blend()},
    )
    prints = [replace(CONFIG, **change).source_of(Made(3)).fingerprint() for change in changes]
    prints.append(CONFIG.source_of(Made(3, name="others")).fingerprint())
    assert len(set(prints)) == len(prints)
    assert replace(CONFIG, bad_share=0.7).source_of(Made(3)).fingerprint() == prints[0]


def test_all_invalid_fields_are_reported_together():
    wrong = Images(
        size=0, seed=-1, background=(0, 0, 256), limits=Limits(pixels=10**9), filters=Filters(min_side=0),
        blend=Blend((), ()), bad_share=2.0,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"size.*seed.*background.*limits.pixels.*bad_share.*min_side.*blend.fields"):
        wrong.source_of(Made(1))


def test_an_index_out_of_range_is_an_index_error():
    for index in (-1, 3):
        with pytest.raises(IndexError):
            CONFIG.source_of(Made(3))[index]
