"""Holes filled by decoders of pixels: known pixels at each size, decoders of each kind, and models that fill none."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from small_painters import pixel_unclip

from dalle_jax.config.errors import UserError
from dalle_jax.models.spaces.space import Latents
from dalle_jax.pipelines.edits.filler import FillCall
from dalle_jax.pipelines.edits.pixel_filler import known_at
from dalle_jax.pipelines.request import RequestOptions
from dalle_jax.sampling.autoregressive import image_keys

RNG = np.random.default_rng(0)
WINDOWS = RNG.integers(0, 256, (2, 2, 16, 16, 3), np.uint8)
HIDDEN = np.zeros((2, 16, 16), bool)
HIDDEN[0, 3:9, 4:12] = True
HIDDEN[1, :, 10:] = True
KEYS = image_keys(jnp.arange(2, dtype=jnp.uint32), 2)
CALL = FillCall(["a red circle", "a blue square"], [RequestOptions(candidates=2)] * 2, KEYS, WINDOWS, HIDDEN)


def test_a_smaller_pixel_is_the_mean_of_its_square_and_known_if_all_of_it_is():
    known = known_at(CALL, 8)
    assert known.image.shape == (4, 8, 8, 3) and known.mask.shape == (4, 8, 8, 1)
    square = WINDOWS[1, 0, 4:6, 6:8].astype(float).mean(axis=(0, 1))
    np.testing.assert_allclose(known.image[2, 2, 3], square / 127.5 - 1, atol=1e-6)
    expected = np.ones((8, 8))
    expected[1:5, 2:6] = 0  # rows 3 to 8 touch the squares 1 to 4
    np.testing.assert_array_equal(known.mask[0, ..., 0], expected)
    np.testing.assert_array_equal(known.mask[1], known.mask[0])
    np.testing.assert_array_equal(known.mask[2, 0, :, 0], [1, 1, 1, 1, 1, 0, 0, 0])
    whole = known_at(CALL, 16)
    np.testing.assert_allclose(127.5 * (whole.image + 1), WINDOWS.reshape(4, 16, 16, 3), atol=1e-4)


@pytest.fixture(scope="module", params=[True, False], ids=["inpaints", "keeps known pixels only"])
def painter(request):
    return pixel_unclip(inpaints=request.param)


def test_known_pixels_come_back_and_hidden_ones_are_drawn(painter):
    drawn = painter.fill_windows(CALL)
    assert drawn.shape == WINDOWS.shape and drawn.dtype == np.uint8
    error = np.abs(drawn.astype(int) - WINDOWS).max(axis=-1)
    for number in range(2):
        assert error[number, :, ~HIDDEN[number]].max() <= 1  # rounding
        assert (error[number, :, HIDDEN[number]] > 3).mean() > 0.9
    assert not np.array_equal(drawn[0, 0][HIDDEN[0]], drawn[0, 1][HIDDEN[0]])


def test_an_image_of_which_nothing_is_known_depends_on_the_prompt_and_the_key_alone(painter):
    nothing = CALL._replace(hidden=np.ones_like(HIDDEN))
    first, second = (painter.fill_windows(nothing._replace(windows=one)) for one in (WINDOWS, WINDOWS[::-1]))
    np.testing.assert_array_equal(first, second)
    other = painter.fill_windows(nothing._replace(prompts=["a blue square"] * 2))
    assert not np.array_equal(first[0], other[0])
    np.testing.assert_array_equal(first[1], other[1])


def test_a_decoder_that_inpaints_reads_the_known_pixels():
    """Without its extra channels the same decoder draws other pixels."""
    reading, replacing = (pixel_unclip(inpaints=inpaints).fill_windows(CALL) for inpaints in (True, False))
    assert (np.abs(reading.astype(int) - replacing)[0][:, HIDDEN[0]] > 3).mean() > 0.05


def test_a_decoder_of_latents_fills_no_holes(painter, monkeypatch):
    latents = replace(pixel_unclip(inpaints=False).decoder_config, space=Latents(channels=3, downsample=1))
    monkeypatch.setattr(painter, "decoder_config", latents)
    with pytest.raises(UserError, match="expected one of pixels or of codes to fill holes, got one of latents"):
        painter.fill_windows(CALL)


def test_options_that_diffusion_does_not_have_are_refused(painter):
    hot = CALL._replace(options=[RequestOptions(candidates=2, temperature=0.5)] * 2)
    with pytest.raises(UserError, match="temperature: expected its default"):
        painter.fill_windows(hot)
