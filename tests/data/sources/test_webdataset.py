import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import tarfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.data.files import ranges
from dalle_jax.data.formats import tar_index
from dalle_jax.data.records import BadRecord, Records
from dalle_jax.data.sources.webdataset import WebDataset
from tests.data.tars import member, sample, write


def opened(*files, **fields):
    return WebDataset(files=tuple(map(str, files)), **fields).open()


def keys(records):
    return [record.key for record in records]


def faults(records):
    return [(problem.key, problem.kind) for problem in records.problems]


def test_records_have_key_image_captions_and_the_json_fields_as_metadata(tmp_path):
    metadata = {"key": "0", "caption": "other", "width": 3, "similarity": 0.31}
    files = [
        *sample("a/0", "a dog\r\n\n  one dog \n"),
        ("a/0.json", json.dumps(metadata).encode()),
        *sample("1", "über"),
    ]
    records = opened(write(tmp_path / "a.tar", *files))
    assert isinstance(records, Records)
    assert [(one.key, one.image, one.captions, dict(one.metadata)) for one in records] == [
        ("a/0", b"image a/0", ("a dog", "one dog"), metadata),
        ("1", b"image 1", ("über",), {}),
    ]
    assert faults(records) == []
    for index in (-1, 2):
        with pytest.raises(IndexError):
            records[index]


@pytest.mark.parametrize(
    ("caption", "captions", "metadata"),
    [
        (("txt",), ("a text",), {"caption": "a json", "long": ["b", "a text", 3, " "], "width": 2}),
        (("json",), ("a json",), {"long": ["b", "a text", 3, " "], "width": 2}),
        (("json:long", "txt"), ("b", "a text"), {"caption": "a json", "width": 2}),
        (("txt", "cap", "json"), ("a text", "a cap", "a json"), {"long": ["b", "a text", 3, " "], "width": 2}),
    ],
)
def test_captions_come_from_the_places_in_the_config(tmp_path, caption, captions, metadata):
    fields = {"caption": "a json", "long": ["b", "a text", 3, " "], "width": 2}
    files = [("0.PNG", b"p"), ("0.txt", b"a text"), ("0.cap", b"a cap"), ("0.json", json.dumps(fields).encode())]
    record = opened(write(tmp_path / "a.tar", *files), caption=caption)[0]
    assert record.captions == captions
    assert record.metadata == metadata


def test_the_preferred_image_of_a_sample_is_taken(tmp_path):
    path = write(tmp_path / "a.tar", ("0.png", b"png"), ("0.webp", b"webp"), ("0.txt", b"x"))
    assert opened(path)[0].image == b"png"
    assert opened(path, images=("webp", "png"))[0].image == b"webp"


def test_samples_with_faults_in_their_headers_are_left_out_and_reported_once(tmp_path):
    first = [*sample("0"), ("only.jpg", b"p"), ("only.json", b"{}"), ("words.txt", b"w"), *sample("1"), *sample("0")]
    first += [member("soft.jpg", tarfile.SYMTYPE, linkname="0.jpg"), ("soft.txt", b"s"), *sample("../up"), *sample("2")]
    first += [("pipe.txt", b"p"), member("pipe.jpg", tarfile.FIFOTYPE)]
    second = [*sample("3"), *sample("1", "another"), *sample("4")]
    a, b = write(tmp_path / "a.tar", *first), write(tmp_path / "b.tar", *second)
    b.write_bytes(b.read_bytes()[: 512 * 11 + 5])  # within 4.txt
    records = opened(tmp_path)
    assert keys(records) == ["0", "1", "2", "3", "b.tar:1"]
    assert records[1].captions == ("caption 1",) and records[4].captions == ("another",)
    assert sorted(faults(records)) == sorted(
        [
            ("only", "no caption"),
            ("words", "no image"),
            ("0", "duplicate key"),
            ("soft", "link"),
            ("../up", "path outside"),
            ("pipe", "not a file"),
            ("b.tar", "broken tail"),
            ("4", "no caption"),
        ]
    )
    assert all(problem.reason for problem in records.problems)
    assert all(("b.tar" if problem.key == "4" else "a.tar") in problem.reason for problem in records.problems[:-3])
    del a


def test_the_same_keys_in_several_tars_are_told_apart_by_the_tar(tmp_path):
    for name in "cab":
        write(tmp_path / f"{name}.tar", *sample("0", f"{name}0"), *sample("1", f"{name}1"))
    write(tmp_path / "d.tar", *sample("0", "d"), ("0.txt", b"again"), *sample("2", "d2"))
    records = opened(tmp_path)
    assert keys(records) == ["0", "1", "b.tar:0", "b.tar:1", "c.tar:0", "c.tar:1", "d.tar:0", "2"]
    assert [one.key for one in records] == keys(records)
    assert [one.captions for one in records][:4] == [("a0",), ("a1",), ("b0",), ("b1",)]
    assert faults(records) == [("d.tar:0", "duplicate key")]
    assert "must follow each other in d.tar" in records.problems[0].reason


def test_keys_with_equal_hashes_are_not_duplicates(tmp_path, monkeypatch):
    class Same:
        def __init__(self, content=b"", digest_size=16):
            self.length = digest_size

        def update(self, content):
            pass

        def digest(self):
            return bytes(self.length)

        def hexdigest(self):
            return "same"

    monkeypatch.setattr(tar_index.hashlib, "blake2b", Same)
    records = opened(write(tmp_path / "a.tar", *sample("0"), *sample("1"), *sample("0")))
    assert keys(records) == ["0", "1"]
    assert faults(records) == [("0", "duplicate key")]


def test_members_that_are_too_large_are_left_out_unread(tmp_path):
    files = [*sample("0"), *sample("1", "x" * 65_537), *sample("2", "x" * 65_536)]
    files += [
        *sample("3"),
        ("3.json", b" " * (2**20 + 1)),
        *sample("4", image=bytes(101)),
        *sample("5", image=bytes(100)),
    ]
    records = opened(write(tmp_path / "a.tar", *files), max_bytes=100)
    assert keys(records) == ["0", "2", "5"]
    assert faults(records) == [("1", "caption too large"), ("3", "json too large"), ("4", "image too large")]
    assert "101 bytes, expected at most 100" in records.problems[2].reason


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ([("0.txt", b"caf\xe9")], "caption not utf-8"),
        ([("0.txt", b"\xef\xbb\xbf \n\t\r\n")], "no caption"),
        ([("0.txt", b"")], "no caption"),
        ([("0.txt", b"x"), ("0.json", b"{")], "broken json"),
        ([("0.txt", b"x"), ("0.json", b"[1]")], "broken json"),
        ([("0.txt", b"x"), ("0.json", b"[" * 100_000)], "broken json"),
        ([("0.txt", b"x"), ("0.json", b"\xff\xff{}")], "broken json"),
    ],
)
def test_a_bad_record_raises_on_every_reading_and_has_its_key(tmp_path, files, kind):
    records = opened(write(tmp_path / "a.tar", *sample("good"), ("0.jpg", b"p"), *files))
    assert len(records) == 2
    for _ in range(2):
        with pytest.raises(BadRecord) as error:
            records[1]
        assert (error.value.key, error.value.kind) == ("0", kind)
    assert records[0].key == "good"


def test_a_json_without_the_caption_field_has_no_caption(tmp_path):
    records = opened(write(tmp_path / "a.tar", ("0.jpg", b"p"), ("0.json", b'{"caption": 3}')), caption=("json",))
    with pytest.raises(BadRecord, match="expected a text that is not blank, got int 3 in caption"):
        records[0]


def test_a_byte_order_mark_is_not_part_of_a_caption(tmp_path):
    assert opened(write(tmp_path / "a.tar", ("0.jpg", b"p"), ("0.txt", b"\xef\xbb\xbfa dog")))[0].captions == ("a dog",)


def test_every_wrong_field_is_reported(tmp_path):
    with pytest.raises(UserError) as error:
        opened(write(tmp_path / "a.tar"), caption=("txt", "JSON"), images=(".jpg",), max_bytes=0)
    for field in ("caption: expected", "images: expected", "max_bytes: expected"):
        assert field in str(error.value)
    for caption in ((), ("json:",), (".txt",)):
        with pytest.raises(UserError, match="caption: expected"):
            opened(tmp_path / "a.tar", caption=caption)
    with pytest.raises(UserError, match=r"found nothing for .*none\.tar"):
        opened(tmp_path / "none.tar")


def test_the_fingerprint_depends_on_records_and_their_order_and_not_on_the_folder(tmp_path):
    base = [*sample("0"), *sample("1")]
    variants = {
        "same": base,
        "order": [*sample("1"), *sample("0")],
        "key": [*sample("0"), *sample("2")],
        "size": [*sample("0"), *sample("1", "longer caption")],
        "time": [member("0.jpg", mtime=5), *base[1:]],
        "more": [*base, *sample("2")],
    }
    found = {}
    for name, files in variants.items():
        (tmp_path / name).mkdir()
        found[name] = opened(write(tmp_path / name / "x.tar", *files)).fingerprint()
    assert len(set(found.values())) == len(variants)
    copy = shutil.copy(tmp_path / "same" / "x.tar", tmp_path / "copy.tar")
    os.utime(copy, ns=(1, 1))
    assert opened(copy).fingerprint() == found["same"]
    assert opened(copy, caption=("txt", "json")).fingerprint() != found["same"]
    assert opened(copy, images=("jpg",)).fingerprint() != found["same"]
    assert opened(copy, max_bytes=10**6).fingerprint() != found["same"]


@pytest.fixture
def many(tmp_path):
    """A folder of three tars with ten records each; image n of a tar has 1000 n bytes."""
    for tar in range(3):
        files = [one for number in range(10) for one in sample(f"{tar}{number}", image=bytes([number]) * 1000 * number)]
        write(tmp_path / f"{tar}.tar", *files)
    return tmp_path


def right(records, index):
    record, number = records[index], index % 10
    assert record.key == f"{index // 10}{number}"
    assert record.image == bytes([number]) * 1000 * number
    assert record.captions == (f"caption {record.key}",)
    return True


def test_reading_a_record_reads_few_other_bytes(many, monkeypatch):
    records = opened(many)
    right(records, 25)  # its tar is open
    asked = []
    pread = os.pread
    monkeypatch.setattr(
        ranges.os, "pread", lambda file, length, start: asked.append(length) or pread(file, length, start)
    )
    for index in (20, 29, 21):
        asked.clear()
        right(records, index)
        assert len(asked) == 1
        assert 1000 * (index % 10) < sum(asked) < 1000 * (index % 10) + 2048


def test_members_that_are_far_apart_are_read_without_the_bytes_between(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tar", ("0.jpg", b"p"), ("0.mp4", bytes(10**6)), ("0.txt", b"a dog"))
    asked = []
    records = opened(path)
    pread = os.pread
    monkeypatch.setattr(
        ranges.os, "pread", lambda file, length, start: asked.append(length) or pread(file, length, start)
    )
    assert records[0].captions == ("a dog",)
    assert asked == [1, 5]


def test_few_files_stay_open_and_no_file_closes_during_a_reading(tmp_path, monkeypatch):
    for tar in range(ranges.MAX_OPEN_FILES + 9):
        write(tmp_path / f"{tar:03d}.tar", *sample(f"{tar}"))
    records = opened(tmp_path)
    ranges._opened.cache_clear()
    before = len(os.listdir("/proc/self/fd"))
    order = np.random.default_rng(0).integers(len(records), size=400)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: records[int(index)].key, order))
    names = sorted(str(tar) for tar in range(len(records)))
    assert [int(key) for key in found] == order.tolist()
    assert len(names) == ranges.MAX_OPEN_FILES + 9
    assert len(os.listdir("/proc/self/fd")) - before <= ranges.MAX_OPEN_FILES
    ranges._opened.cache_clear()
    assert len(os.listdir("/proc/self/fd")) == before


def test_forked_processes_read_files_that_their_parent_opened(many):
    records = opened(many)
    right(records, 3)
    context = multiprocessing.get_context("fork")

    def child(first):
        os._exit(0 if all(right(records, index % 30) for index in range(first, first + 60)) else 1)

    processes = [context.Process(target=child, args=(first,)) for first in (0, 7)]
    for process in processes:
        process.start()
    assert all(right(records, index % 30) for index in range(60))
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def test_records_can_be_pickled_for_worker_processes(many):
    copy = pickle.loads(pickle.dumps(opened(many)))
    assert all(right(copy, index) for index in range(30))
    assert copy.fingerprint() == opened(many).fingerprint()


def test_a_tar_that_changes_in_use_is_an_error_with_its_name(many):
    records = opened(many)
    ranges._opened.cache_clear()
    write(many / "1.tar", *sample("x"))
    with pytest.raises(UserError, match=r"1\.tar was changed while it was in use"):
        records[15]
    right(records, 5)
    (many / "1.tar").unlink()
    with pytest.raises(UserError, match=r"cannot read .*1\.tar: No such file"):
        records[15]


def test_a_folder_that_cannot_be_written_gives_one_warning_and_is_read(many, monkeypatch, capsys):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tar_index.storage, "write", refuse)
    assert all(right(opened(many), index) for index in (0, 15))
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert "0.tar and 2 more" in warnings[0] and "index_folder" in warnings[0]


def test_all_records_of_real_webdataset_tars_are_read(tmp_path):
    if "DALLE_JAX_DATA" not in os.environ:
        pytest.skip("DALLE_JAX_DATA names no folder with emoji/*.tar in it")
    records = opened(Path(os.environ["DALLE_JAX_DATA"]) / "emoji" / "*.tar", index_folder=str(tmp_path))
    assert len(records) == 3341
    assert records.problems == ()
    kinds = Counter()
    for record in records:
        assert hashlib.sha256(record.image).hexdigest() == record.metadata["sha256"]
        assert record.metadata["key"] == record.key
        assert record.captions == (record.metadata["caption"],)
        kinds[record.image[:4]] += 1
    assert kinds == {b"\x89PNG": 3341}
