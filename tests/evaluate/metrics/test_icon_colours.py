import itertools

import numpy as np
import pytest

from dalle_jax.evaluate.metrics.icon_colours import GLYPHS, GROUNDS, IconColours, read_icon

SIDE = 32
LINE = np.abs(np.hypot(*np.mgrid[-15.5:16.5, -15.5:16.5]) - 9)
"""The distance of each pixel from a circle."""


def icon(colour, ground, amount):
    return np.round(ground + amount[..., None] * (np.asarray(colour) - ground)).astype(np.uint8)


@pytest.mark.parametrize("amount", [np.clip(4 - LINE, 0, 1), 0.5 * np.clip(1 - LINE, 0, 1)], ids=["thick", "faint"])
def test_every_colour_is_read_on_every_other_ground_however_thin_the_line(amount):
    for (name, colour), (under, ground) in itertools.product(GLYPHS.items(), GROUNDS.items()):
        expected = IconColours(None if name == under else name, under)
        assert read_icon(icon(colour, ground, amount)) == expected


def test_an_empty_image_has_no_glyph_and_an_unnamed_ground_is_none():
    assert read_icon(np.full((SIDE, SIDE, 3), 255, np.uint8)) == IconColours(None, "white")
    teal = icon(GLYPHS["red"], (0, 140, 140), np.clip(4 - LINE, 0, 1))
    assert read_icon(teal) == IconColours("red", None)


def test_two_colours_on_a_ground_are_no_glyph_colour():
    image = icon(GLYPHS["red"], GROUNDS["white"], np.clip(4 - LINE, 0, 1))
    image[:, : SIDE // 2] = icon(GLYPHS["blue"], GROUNDS["white"], np.clip(4 - LINE, 0, 1))[:, : SIDE // 2]
    assert read_icon(image) == IconColours(None, "white")


def test_noise_of_a_decoder_does_not_change_what_is_read():
    noise = np.random.default_rng(0).normal(0, 6, (SIDE, SIDE, 3))
    image = icon(GLYPHS["purple"], GROUNDS["yellow"], np.clip(4 - LINE, 0, 1))
    assert read_icon(np.clip(image + noise, 0, 255).astype(np.uint8)) == IconColours("purple", "yellow")
