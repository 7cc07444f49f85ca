import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.images.decode import decode
from dalle_jax.images.files import encode_png, png_text, write_bytes, write_png
from dalle_jax.images.grid import FRAME, GAP, RIGHT, WRONG, grid
from dalle_jax.images.pixels import to_float, to_uint8
from dalle_jax.images.resize import centre_square, enlarge, resize


def noise(height=8, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_png_keeps_pixels_and_text():
    pixels = noise()
    data = encode_png(pixels, {"prompt": "ein rotes Schild: „Ü“", "seed": "7"})
    np.testing.assert_array_equal(decode(data), pixels)
    assert png_text(data) == {"prompt": "ein rotes Schild: „Ü“", "seed": "7"}


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
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


def test_centre_square_takes_the_middle():
    pixels = noise(4, 10)
    np.testing.assert_array_equal(centre_square(pixels, 4), pixels[:, 3:7])
    np.testing.assert_array_equal(centre_square(noise(10, 4), 4), noise(10, 4)[3:7])
    assert centre_square(noise(9, 13), 5).shape == (5, 5, 3)


def test_resizing_keeps_flat_colour_and_enlarging_repeats_pixels():
    flat = np.full((7, 9, 3), 77, np.uint8)
    np.testing.assert_array_equal(resize(flat, 3, 20), np.full((3, 20, 3), 77))
    np.testing.assert_array_equal(enlarge(noise(), 3)[1::3, 2::3], noise())


def test_pixels_go_to_floats_and_back_in_numpy_jax_and_jit():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(to_float(every)), every)
    assert to_float(every).dtype == np.float32
    both = jax.jit(lambda x: to_uint8(to_float(x)))(jnp.asarray(every))
    assert isinstance(both, jax.Array)
    np.testing.assert_array_equal(both, every)
    np.testing.assert_array_equal(to_uint8(np.array([-1.0, 0.5, 2.0], np.float32)), [0, 128, 255])


def test_a_grid_holds_every_picture_and_frames_by_mark():
    pictures = [noise(seed=seed) for seed in range(5)]
    sheet = grid(pictures, 3, ["a caption that is long enough to wrap"] * 5, [True, False, None, None, True], scale=2)
    cell = 6 * 2 + 2 * FRAME + GAP
    np.testing.assert_array_equal(sheet[GAP + FRAME :][:16, GAP + FRAME :][:, :12], enlarge(pictures[0], 2))
    second = GAP + cell
    np.testing.assert_array_equal(sheet[GAP + FRAME :][:16, second + FRAME :][:, :12], enlarge(pictures[1], 2))
    np.testing.assert_array_equal(sheet[GAP, GAP], RIGHT)
    np.testing.assert_array_equal(sheet[GAP, second], WRONG)
    np.testing.assert_array_equal(sheet[GAP, GAP + 2 * cell], (255, 255, 255))
    assert grid(pictures, 8).shape[1] == 5 * (6 + 2 * FRAME + GAP) + GAP
