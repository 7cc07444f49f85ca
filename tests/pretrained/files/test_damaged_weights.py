"""Archives with a changed byte: readers return what was written, or name the file and the member."""

import struct

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.pretrained.files import zips
from dalle_jax.pretrained.files.read_weights import read_tensors
from tests.pretrained.files.test_hostile_files import NUMBERS, refusal
from tests.pretrained.weight_files import tensor, torch_zip

ROOT = {"a": tensor("0", "float32", 24, (4, 6), (6, 1)), "b": tensor("0", "float32", 24, (2,), (1,), offset=3)}


def torch_file(path):
    return torch_zip(path, ROOT, {"0": NUMBERS.tobytes()})


def plain_npz(path):
    np.savez(path, a=NUMBERS.reshape(4, 6), b=np.arange(3))
    return path


def compressed_npz(path):
    np.savez_compressed(path, a=NUMBERS.reshape(4, 6), b=np.arange(3))
    return path


def read_or_error(path) -> tuple[dict[str, bytes], str]:
    try:
        return {name: array.tobytes() for name, array in read_tensors(path).items()}, ""
    except UserError as error:
        return {}, str(error)


@pytest.mark.parametrize("made", [torch_file, plain_npz, compressed_npz])
def test_no_flipped_bit_of_an_archive_silently_changes_a_tensor(tmp_path, made):
    path = made(tmp_path / "whole.npz")
    whole, content = {name: array.tobytes() for name, array in read_tensors(path).items()}, path.read_bytes()
    damaged, refused = tmp_path / "damaged.npz", 0
    for at in range(len(content)):
        damaged.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
        found, said = read_or_error(damaged)
        assert found.keys() <= whole.keys() and all(found[name] == whole[name] for name in found), at
        assert not said or said.startswith(str(damaged))
        refused += bool(said)
    assert refused > len(content) // 3  # the rest, such as dates and versions, does not affect tensors


def test_the_error_for_a_damaged_tensor_names_its_file_and_member(tmp_path):
    path = torch_file(tmp_path / "a.pt")
    content = bytearray(path.read_bytes())
    at = content.index(NUMBERS.tobytes())
    content[at + 40] ^= 4
    path.write_bytes(content)
    tensors = read_tensors(path)
    with pytest.raises(UserError, match=r"a\.pt: expected 'archive/data/0' with the checksum .* the file is damaged"):
        _ = tensors["a"]


def test_a_member_is_checked_at_its_first_read_and_only_then(tmp_path, monkeypatch):
    path, sizes = torch_file(tmp_path / "a.pt"), []
    true = zips.zlib.crc32
    monkeypatch.setattr(zips.zlib, "crc32", lambda part: sizes.append(len(part)) or true(part))
    tensors = read_tensors(path)
    assert NUMBERS.nbytes not in sizes
    for name in ("a", "b", "a"):
        _ = tensors[name]
    assert sizes.count(NUMBERS.nbytes) == 1


def test_an_archive_that_torch_saved_without_checksums_is_read(tmp_path):
    path = torch_file(tmp_path / "a.pt")
    content = path.read_bytes()
    at = content.index(b"PK\x01\x02")
    while at >= 0:
        content = content[: at + 16] + bytes(4) + content[at + 20 :]
        at = content.find(b"PK\x01\x02", at + 1)
    assert struct.pack("<I", zips.zlib.crc32(NUMBERS.tobytes())) not in content[content.index(b"PK\x01\x02") :]
    path.write_bytes(content)
    np.testing.assert_array_equal(read_tensors(path)["a"], NUMBERS.reshape(4, 6))


def test_a_member_inside_another_is_refused(tmp_path):
    """Zip bombs overlap members to unpack the same bytes many times."""
    name = b"archive/data/1"
    inner = zips.LOCAL_HEADER.pack(b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 4, 4, len(name), 0) + name + b"abcd"
    path = torch_zip(tmp_path / "a.pt", ROOT, {"0": inner.ljust(96), "1": b"abcd"})
    content = path.read_bytes()
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(name))
    inside = struct.pack("<I", content.index(inner))
    path.write_bytes(content[: entry + 42] + inside + content[entry + 46 :])
    assert "overlapping" in refusal(path)


@pytest.mark.parametrize(("place", "value"), [(0, b"PK\x03\x05"), (8, b"\x08\x00"), (30, b"Archive")])
def test_a_member_whose_local_header_differs_from_the_directory_is_refused(tmp_path, place, value):
    path = torch_file(tmp_path / "a.pt")
    content = path.read_bytes()
    at = content.index(b"PK\x03\x04", 10) + place
    path.write_bytes(content[:at] + value + content[at + len(value) :])
    assert "archive/byteorder" in refusal(path)
