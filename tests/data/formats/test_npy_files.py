"""Headers of .npy files, parsed without numpy."""

import io

import numpy as np
import pytest

from dalle_jax.data.formats.npy_files import read_npy_array, read_npy_header


def written(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["<f4", ">f8", "<f2", "|i1", "<u8", "?", ">i4"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_arrays_that_numpy_wrote_are_read(kind, version):
    array = np.arange(6).reshape(2, 3).astype(kind)
    for one in (array, np.asfortranarray(array), array[0, 0], array[:0]):
        found = read_npy_array(written(one, version))
        np.testing.assert_array_equal(found, one)
        assert found.dtype == one.dtype and found.shape == one.shape


def test_headers_of_python_2_are_read():
    content = written(np.zeros((2, 3), np.float32)).replace(b"(2, 3)", b"(2L,3)")
    assert read_npy_header(content).shape == (2, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((b"'<f4'", b"'m8[Y/0]'"), "expected"),
        ((b"'<f4'", b"'|O' "), "plain numbers"),
        ((b"(2, 3)", b"(2,-3)"), "whole numbers"),
        ((b"(2, 3)", b"(9, 9)"), "324 bytes of numbers, got 24"),
        ((b"(2, 3)", b"[2, 3]"), "a tuple"),
        ((b"'shape'", b"'shapf'"), "other names"),
        ((b"False", b"1    "), "a bool"),
        ((b"\x93NUMPY\x01", b"\x93NUMPY\x07"), "version 1 to 3"),
        ((b"{'descr", b"{{{{{{r"), "other text"),
    ],
    ids=str,
)
def test_other_headers_are_value_errors(change, says):
    content = written(np.zeros((2, 3), np.float32))
    assert change[0] in content
    with pytest.raises(ValueError, match=says):
        read_npy_array(content.replace(*change))


def test_headers_longer_than_the_file_are_value_errors():
    content = written(np.zeros((2, 3), np.float32))
    for end in range(len(content) - 24):
        with pytest.raises(ValueError, match="expected a"):
            read_npy_header(content[:end])
