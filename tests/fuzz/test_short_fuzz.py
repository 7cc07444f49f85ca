"""A short run of the fuzzer (``make fuzz`` is the long one), faults that it must notice, and faults that it found."""

import io
import random

import pyarrow
import pyarrow.parquet
import pytest

from dalle_jax.data.sources.parquet import Parquet
from tests.fuzz.mutations import mutated
from tests.fuzz.run_fuzz import Guard, read_input, run
from tests.fuzz.targets import Target, _read_records, _survey

INPUTS = 400


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard()


def test_mutated_files_of_every_kind_are_read_or_refused_by_the_readers_own_errors(tmp_path, capfd):
    assert run(5, 0, INPUTS, tmp_path / "report") == []
    assert f"{INPUTS} of {INPUTS} inputs, 0 faults" in capfd.readouterr().out


def test_an_input_is_determined_by_its_seed():
    found = [mutated(b"some content 12", [b"other"], random.Random(f"0 {number}")) for number in range(50)]
    assert found == [mutated(b"some content 12", [b"other"], random.Random(f"0 {number}")) for number in range(50)]
    assert len(set(found)) > 30


def raises(path):
    raise KeyError(path.name)


def executes(path):
    exec("1 + 1")


def allocates(path):
    assert len(b"x" * (100 << 20)) == 100 << 20


@pytest.mark.parametrize(
    ("read", "kind"), [(raises, "traceback"), (executes, "execution"), (allocates, "memory"), (len, "traceback")]
)
def test_the_fuzzer_would_notice_a_fault(tmp_path, guard, read, kind):
    found = read_input(Target("x", "x.bin", (), read), b"content", tmp_path / "place", guard)
    assert found is not None and found[0] == kind


def test_a_file_that_is_read_is_not_a_fault(tmp_path, guard):
    assert read_input(Target("x", "x.bin", (), lambda path: path.read_bytes()), b"x", tmp_path / "place", guard) is None


def varint(number: int) -> bytes:
    """Encode an integer as Thrift's compact protocol does."""
    number, out = 2 * number, b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


@pytest.mark.parametrize(
    ("column", "read"),
    [("image", lambda path: _read_records(Parquet((str(path),)).open())), ("prompt", _survey)],
)
def test_a_page_of_parquet_that_claims_two_gigabytes_takes_no_memory(tmp_path, guard, column, read):
    stream, values = io.BytesIO(), pyarrow.array(["x" * 300])
    table = pyarrow.table({column: values.cast("binary") if column == "image" else values, "caption": ["a"]})
    pyarrow.parquet.write_table(table, stream, use_dictionary=False, compression="none")
    content = stream.getvalue()
    size = b"\x15" + varint(310)  # a page's header has its kind, its size and its compressed size, each with a tag
    assert content.count(size + size) == 1
    large = content.replace(size + size, size + b"\x15" + varint(2**31 - 50))
    found = read_input(Target("x", "x.parquet", (), read), large, tmp_path / "place", guard, armed=False)
    assert found is None
