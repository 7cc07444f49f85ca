"""One bad record is counted, named and passed over; the records next to it are read."""

import datetime
import decimal
import os

import pyarrow
import pyarrow.parquet
import pytest

from dalle_jax.data.examples.record_filters import Filters
from dalle_jax.data.formats.array_record_layout import MAX_OTHER_BYTES, decode_record, encode_record
from dalle_jax.data.records import BadRecord, Record
from dalle_jax.data.sources import array_record
from dalle_jax.data.sources.folder import Folder
from dalle_jax.data.sources.parquet import Parquet
from tests.data.damaged import fault


def folder(path, lines: bytes, name: str = "metadata.jsonl"):
    path.mkdir(exist_ok=True)
    for number in range(4):
        (path / f"{number}.png").write_bytes(b"image")
        (path / f"{number}.txt").write_bytes(b"caption")
    (path / name).write_bytes(lines)
    return Folder(str(path)).open()


def line(number: int, rest: bytes) -> bytes:
    return b'{"file_name": "%d.png", "text": "a"%s}\n' % (number, rest)


def test_a_number_larger_than_any_float_is_a_bad_record_of_the_filter(tmp_path):
    found = folder(tmp_path, line(0, b', "similarity": 1' + b"0" * 400) + line(1, b', "similarity": 1'))
    filters = Filters(min_similarity=0.5)
    with pytest.raises(BadRecord, match=r"0\.png: similarity: expected a number below 1e308"):
        filters.failed_filter(found[0])
    assert filters.failed_filter(found[1]) is None


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        (b', "x": "\\ud800"', "half of a surrogate pair"),
        (b', "x": ' + b"[" * 100_000, "nested too deeply"),
        (b', "x": 1' + b"0" * 5000, "digits"),
        (b', "x": [' + b"{}," * 300_000 + b"0]", "bytes of memory"),
    ],
    ids=["surrogate", "nested", "digits", "memory"],
)
def test_a_bad_line_of_metadata_is_named_and_the_others_are_used(tmp_path, rest, says):
    found = folder(tmp_path, line(0, b', "x": 5') + line(1, rest))
    assert found[0].metadata == {"x": 5} and len(found) == 4
    (problem,) = found.problems
    assert (problem.key, problem.kind) == ("metadata.jsonl:2", "broken metadata") and says in problem.reason


def test_a_field_of_a_table_longer_than_the_parser_reads_is_a_bad_line(tmp_path):
    table = b"file_name,text\n0.png,one\n1.png," + b"x" * 140_000 + b"\n2.png,two\n"
    found = folder(tmp_path, table, "metadata.csv")
    assert [found[number].captions for number in range(3)] == [("one",), ("caption",), ("two",)]
    assert [(one.key, one.kind) for one in found.problems] == [("metadata.csv:3", "broken metadata")]


def test_links_that_lead_to_themselves_are_named(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    os.mkfifo(tmp_path / "pipe.png")
    found = folder(tmp_path, b"")
    assert len(found) == 4
    assert [one.key for one in found.problems] == ["a.png", "b.png", "loop.png", "pipe.png"]
    assert {one.kind for one in found.problems} == {"not a file"}


def dates():
    return {
        "when": [datetime.datetime(2024, 1, 1, hour) for hour in range(3)],
        "day": [datetime.date(2024, 1, 1)] * 3,
        "price": [decimal.Decimal("1.20")] * 3,
        "exact": pyarrow.array([1, 2, 3], pyarrow.timestamp("ns")),
        "far": pyarrow.array([2**62] * 3, pyarrow.timestamp("us")),
        "took": pyarrow.array([1, 2, 3], pyarrow.duration("ns")),
        "in_list": pyarrow.array([[1], [2**62], [3]], pyarrow.list_(pyarrow.timestamp("us"))),
    }


def parquet(path, **columns):
    rows = {"image": [b"image"] * 3, "caption": ["a", "b", "c"]}
    pyarrow.parquet.write_table(pyarrow.table(rows | columns), path)
    return Parquet((str(path),)).open()


def test_dates_and_decimals_in_parquet_are_text_and_one_that_cannot_be_read_is_a_bad_record(tmp_path):
    found = parquet(tmp_path / "a.parquet", **dates())
    expected = {"when": "2024-01-01 02:00:00.000000", "day": "2024-01-01", "price": "1.20", "took": "3"}
    assert expected.items() <= found[2].metadata.items()
    assert found[2].metadata["exact"] == "1970-01-01 00:00:00.000000003"
    assert fault(found, 1) == ("a.parquet:1", "broken row group")
    assert found[0].captions == ("a",)


def test_parquet_with_dates_is_written_as_array_record(tmp_path):
    found = parquet(tmp_path / "a.parquet", **dates())
    path = tmp_path / "a.array_record"
    assert array_record.write(path, [found[0], found[2]]) == 2
    written = array_record.ArrayRecord((str(path),)).open()[1]
    assert written.metadata["when"] == "2024-01-01 02:00:00.000000"
    assert written.metadata["in_list"] == ["1970-01-01T00:00:00.000003"]


def test_metadata_that_msgpack_cannot_hold_is_written_as_text():
    metadata = {
        "huge": 10**400,
        "max": 2**64 - 1,
        "set": {1},
        "raw": b"x",
        "deep": {"day": [datetime.date(2024, 1, 2)]},
    }
    found = decode_record("k", encode_record(b"image", ["a"], metadata), 100).metadata
    assert found == {**metadata, "huge": str(10**400), "set": "{1}", "deep": {"day": ["2024-01-02"]}}


def test_large_metadata_in_a_record_is_refused_before_it_is_unpacked():
    small = encode_record(b"i" * 2 * MAX_OTHER_BYTES, ["a"], {"x": "y" * 1000})
    assert decode_record("k", small, 2**30).metadata == {"x": "y" * 1000}
    large = encode_record(b"i" * 2 * MAX_OTHER_BYTES, ["a"], {"x": "y" * MAX_OTHER_BYTES})
    with pytest.raises(BadRecord, match="bytes besides the image"):
        decode_record("k", large, 2**30)


def test_records_keep_their_filters_when_a_number_is_text():
    assert Filters(min_similarity=2.0).failed_filter(Record("k", b"", ("a",), {"similarity": "1"})) == "similarity"
