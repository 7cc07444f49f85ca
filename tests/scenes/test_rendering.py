import numpy as np
import pytest

from dalle_jax.scenes.grammar import Scene, SceneObject, sample_scene
from dalle_jax.scenes.rendering import draw_shape, overlap, render
from dalle_jax.scenes.scene import COLOURS, LETTERS, LEVELS, SHAPES
from dalle_jax.scenes.shapes import word_bitmap
from dalle_jax.scenes.strokes import word_coverage


@pytest.mark.parametrize("level", LEVELS)
def test_a_seed_gives_the_same_image(level):
    scene = sample_scene(level, np.random.default_rng(level), "train")
    first, again, other = (render(scene, 32, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first.shape == (32, 32, 3)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("level", LEVELS)
def test_a_large_image_averaged_down_equals_a_small_one(level):
    rng = np.random.default_rng(level)
    for _ in range(10):
        scene, seed = sample_scene(level, rng, "train"), int(rng.integers(1000))
        small = render(scene, 32, np.random.default_rng(seed)).astype(float)
        side = 256 if scene.word is None else 96  # the letters of large signs are strokes
        large = render(scene, side, np.random.default_rng(seed)).astype(float)
        averaged = large.reshape(32, side // 32, 32, side // 32, 3).mean(axis=(1, 3))
        assert np.abs(averaged - small).mean() < 1.5
        assert np.abs(averaged - small).max() < 70  # sharp corners: coverage from the distance to one edge


def coverage_of(shape, half, x=20.0, y=20.0, size=40):
    canvas = np.zeros((1, size, size), np.float32)
    draw_shape(canvas, shape, (1.0,), x, y, half)
    return canvas[0]


def test_drawn_areas_equal_the_geometric_ones():
    half = 12.0
    expected = {
        "circle": np.pi * half**2,
        "square": (1.84 * half) ** 2,
        "triangle": 0.5 * 2.1 * 1.8 * half**2,
        "cross": (4 * 2 * 0.35 * 1.02 - 0.7**2) * half**2,
        "ring": np.pi * (1.05**2 - 0.47**2) * half**2,
    }
    for shape, area in expected.items():
        assert coverage_of(shape, half).sum() == pytest.approx(area, rel=0.01), shape


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_symmetric_and_unchanged_by_whole_pixel_shifts(shape):
    drawn = coverage_of(shape, 7.3)
    np.testing.assert_allclose(drawn, drawn[:, ::-1], atol=0.06)
    np.testing.assert_allclose(np.roll(drawn, 5, axis=1), coverage_of(shape, 7.3, x=25.0), atol=1e-5)


def test_shapes_are_clipped_at_the_edge():
    whole = coverage_of("heart", 8.0, x=30.0, y=30.0, size=60)
    np.testing.assert_allclose(coverage_of("heart", 8.0, x=2.0, y=3.0, size=20), whole[27:47, 28:48], atol=1e-5)
    assert coverage_of("heart", 8.0, x=-50.0, y=3.0, size=20).sum() == 0


def test_overlap_of_cells_and_pixels_is_exact():
    np.testing.assert_allclose(overlap(4, 2, 0.5, 3.0)[:, 0], [0.5, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(overlap(4, 2, 0.5, 3.0)[:, 1], [0.0, 0.0, 1.0, 0.5])


def test_all_letters_differ_by_at_least_two_cells():
    bitmaps = {letter: word_bitmap(letter) for letter in LETTERS}
    for a in LETTERS:
        assert bitmaps[a].shape == (7, 5)
        assert all(np.abs(bitmaps[a] - bitmaps[b]).sum() >= 2 for b in LETTERS if b != a)


def test_strokes_cover_about_the_ink_of_the_bitmap_in_its_place():
    for letter in LETTERS:
        ink = word_coverage(letter, 128, 64.0, 64.0, 5.0)
        rows, columns = np.nonzero(ink > 0.5)
        assert columns.min() >= 40
        assert columns.max() <= 88
        assert abs(rows.min() + rows.max() - 127) <= 2  # as high as the bitmap, 7 cells, in the middle
        assert 33 <= np.ptp(rows) <= 36
        assert 0.75 <= ink.sum() / (25 * word_bitmap(letter).sum()) <= 1.2


def test_a_word_of_strokes_is_its_letters_side_by_side():
    word = word_coverage("XO", 128, 64.0, 64.0, 5.0)
    left, right = (word_coverage(letter, 128, x, 64.0, 5.0) for letter, x in (("X", 46.5), ("O", 81.5)))
    np.testing.assert_allclose(word, np.maximum(left, right), atol=1e-6)


def test_colours_are_far_apart():
    values = np.array([*COLOURS.values(), (236, 236, 236)], float)
    distances = np.linalg.norm(values[:, None] - values[None], axis=-1) + 1000 * np.eye(len(values))
    assert distances.min() > 120


def test_objects_and_background_are_drawn_in_their_colours():
    scene = Scene(5, "single", (SceneObject("blue", "square"),), background="yellow")
    image = render(scene, 64, np.random.default_rng(0))
    np.testing.assert_allclose(image[32, 32], COLOURS["blue"], atol=1)
    np.testing.assert_allclose(image[0, 0], COLOURS["yellow"], atol=5)
