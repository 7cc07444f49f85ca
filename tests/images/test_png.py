import io

import numpy as np
import pytest
from PIL import Image

from dalle_jax.config.errors import UserError
from dalle_jax.images.decode import decode
from dalle_jax.images.png import encode_png, write_png
from dalle_jax.storage import write_bytes


def noise(height=8, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_png_keeps_pixels_and_text():
    pixels, text = noise(), {"prompt": "ein rotes Schild: „Ü“", "seed": "7"}
    data = encode_png(pixels, text)
    np.testing.assert_array_equal(decode(data), pixels)
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.info == text


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    write_png(tmp_path / "new" / "a.png", noise())
    np.testing.assert_array_equal(decode((tmp_path / "new" / "a.png").read_bytes()), noise())

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(UserError, match="No space left"):
        write_bytes(tmp_path / "new" / "a.png", b"half")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    np.testing.assert_array_equal(decode((tmp_path / "new" / "a.png").read_bytes()), noise())


def test_an_unwritable_place_is_a_user_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write"):
        write_bytes(tmp_path / "file" / "a.png", b"x")
