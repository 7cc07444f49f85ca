"""Images of array files are read without numpy's loader, and other content is one line."""

import io

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.suites.sets.array_images import is_statistics, open_array_images

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 12, 3), np.uint8)


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed", "named", "adm"])
def test_images_are_those_of_the_array(tmp_path, kind):
    path = tmp_path / ("a.npy" if kind == "npy" else "a.npz")
    if kind == "npy":
        np.save(path, IMAGES)
    elif kind == "adm":
        np.savez(path, IMAGES, mu=np.zeros(4), sigma=np.eye(4))
    else:
        {"npz": np.savez, "compressed": np.savez_compressed, "named": np.savez}[kind](
            path, **{"images" if kind == "named" else "arr_0": IMAGES}
        )
    found = open_array_images(path)
    assert len(found) == 5 and found.read([3, 1]).captions == ((), ())
    np.testing.assert_array_equal(found.read([3, 1]).images, IMAGES[[3, 1]])
    assert open_array_images(path, 4).read([0]).images.shape == (1, 4, 4, 3)
    assert not is_statistics(path)
    assert found.fingerprint() != found.fingerprint(4) and found.fingerprint() == found.fingerprint(9)


def pickled(path):
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: np.save(path, IMAGES / 255), r"expected images uint8 \[N H W 3\], got float64\[5, 8, 12, 3\]"),
        (lambda path: np.save(path, IMAGES[..., 0]), r"expected images uint8 \[N H W 3\], got uint8\[5, 8, 12\]"),
        (lambda path: np.save(path, IMAGES[:0]), r"got uint8\[0, 8, 12, 3\]"),
        (lambda path: np.save(path, np.asfortranarray(IMAGES)), "expected an array in C order"),
        (pickled, r"expected an array of numbers, got another file \(expected plain numbers, got the dtype '|O'"),
        (lambda path: path.write_bytes(b"other"), "expected an array of numbers, got another file"),
    ],
)
def test_other_arrays_are_one_line(tmp_path, write, message):
    write(tmp_path / "a.npy")
    with pytest.raises(UserError, match=message):
        open_array_images(tmp_path / "a.npy")


def test_a_short_file_and_an_archive_without_images_are_one_line(tmp_path):
    stream = io.BytesIO()
    np.save(stream, IMAGES)
    (tmp_path / "a.npy").write_bytes(stream.getvalue()[:-1])
    with pytest.raises(UserError, match="expected 1,568 bytes, got 1,567"):
        open_array_images(tmp_path / "a.npy")
    np.savez(tmp_path / "b.npz", mu=np.zeros(4), sigma=np.eye(4))
    assert is_statistics(tmp_path / "b.npz")
    with pytest.raises(UserError, match="expected images as arr_0, got mu, sigma"):
        open_array_images(tmp_path / "b.npz")
