import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle_jax.config.errors import UserError
from dalle_jax.scenes.grammar import Scene, SceneObject, captions, parse, sample_scene
from dalle_jax.scenes.judge import judge, judge_scene
from dalle_jax.scenes.perceive import perceive
from dalle_jax.scenes.reader_accuracy import blur_and_noise, measure_reader, near_miss
from dalle_jax.scenes.rendering import COUNT_DIAMETER, draw_shape
from dalle_jax.scenes.scene import COLOURS, LEVELS, PLAIN


def draw_objects(*objects, size=32, background=PLAIN):
    """Draw objects given as (colour, shape, x, y, diameter), with lengths in units of the side."""
    canvas = np.empty((3, size, size), np.float32)
    canvas[:] = np.array(background, np.float32)[:, None, None]
    for colour, shape, x, y, diameter in objects:
        draw_shape(canvas, shape, COLOURS[colour], x * size, y * size, diameter * size / 2)
    return np.ascontiguousarray(canvas.round().astype(np.uint8).transpose(1, 2, 0))


def wrong_parts(image, caption):
    return {part.name: (part.expected, part.found) for part in judge(image, caption).parts if not part.right}


@pytest.mark.parametrize(("level", "size"), [(1, 32), (2, 32), (3, 32), *((level, 64) for level in LEVELS), (6, 128)])
def test_judge_is_right_on_clean_images(level, size):
    rates = measure_reader(level=level, size=size, count=120, seed=11)
    assert rates.accepted_true >= 0.995
    assert rates.accepted_near <= 0.005
    assert rates.accepted_random <= 0.005


@pytest.mark.parametrize(("level", "size"), [(1, 32), (2, 32), (3, 32), *((level, 64) for level in LEVELS), (6, 128)])
def test_judge_is_right_on_blurred_and_noisy_images(level, size):
    rates = measure_reader(level=level, size=size, count=80, seed=12, degrade=blur_and_noise)
    assert rates.accepted_true >= 0.97
    assert rates.accepted_near <= 0.01
    assert rates.accepted_random <= 0.01


def test_an_object_is_detected_where_it_was_drawn():
    seen = perceive(draw_objects(("pink", "triangle", 0.4, 0.6, 0.5), size=64)).objects
    assert [(one.colour, one.shape) for one in seen] == [("pink", "triangle")]
    assert abs(seen[0].x - 0.4) < 0.02
    assert abs(seen[0].y - 0.6) < 0.08  # a triangle's centroid is below the centre of its box
    assert abs(seen[0].extent - 0.525) < 0.03


def test_each_wrong_attribute_is_listed():
    image = draw_objects(("red", "circle", 0.5, 0.5, 0.62))
    assert judge(image, "a big red circle").right
    assert wrong_parts(image, "a big blue circle") == {"colour": ("blue", "red")}
    assert wrong_parts(image, "a big red square") == {"shape": ("square", "circle")}
    assert wrong_parts(image, "a small red circle") == {"size": ("small", "big")}
    assert wrong_parts(image, "a red circle on a blue background") == {"background": ("blue", "plain")}


def test_an_additional_object_makes_a_caption_wrong():
    image = draw_objects(("red", "circle", 0.26, 0.5, 0.39), ("blue", "ring", 0.74, 0.5, 0.39))
    assert judge(image, "a red circle left of a blue ring").right
    assert wrong_parts(image, "a small red circle") == {"count": ("1", "2")}
    three = draw_objects(
        *[("red", "circle", x, y, COUNT_DIAMETER) for x, y in ((0.26, 0.26), (0.74, 0.26), (0.26, 0.74))]
    )
    assert judge(three, "three red circles").right
    assert wrong_parts(three, "two red circles") == {"count": ("2", "3")}


def test_a_swapped_relation_is_wrong_but_its_objects_are_right():
    image = draw_objects(("red", "circle", 0.5, 0.26, 0.39), ("blue", "ring", 0.5, 0.74, 0.39))
    assert judge(image, "a blue ring below a red circle").right
    assert wrong_parts(image, "a blue ring above a red circle") == {"relation": ("above", "below")}
    assert wrong_parts(image, "a red circle left of a blue ring") == {"relation": ("left of", "above")}


def test_different_objects_are_not_a_group():
    image = draw_objects(("red", "circle", 0.26, 0.5, 0.37), ("blue", "circle", 0.74, 0.5, 0.37))
    assert wrong_parts(image, "two red circles") == {"colour": ("red", "mixed")}


def test_an_object_of_two_colours_has_an_unknown_colour():
    image = draw_objects(("red", "square", 0.5, 0.5, 0.6), size=64)
    image[:, 32:][(image[:, 32:] != PLAIN).any(axis=-1)] = COLOURS["green"]
    assert perceive(image).objects[0].colour == "unknown"


def test_an_empty_image_has_no_objects():
    image = draw_objects()
    assert perceive(image).objects == ()
    for level in LEVELS:
        scene = sample_scene(level, np.random.default_rng(level), "train")
        assert not judge(image, captions(scene)[0]).right


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("thick", range(1, 9))
def test_a_stroke_as_wide_as_a_sign_has_no_letters(size, thick):
    image = draw_objects(size=size)
    image[8 : 8 + thick, 2:-2] = COLOURS["red"]
    assert not perceive(image).word


def test_an_object_of_a_shape_outside_the_grammar_is_unknown():
    image = draw_objects()
    image[8:24, 8:11] = COLOURS["red"]
    image[8:11, 8:28] = COLOURS["red"]
    assert perceive(image).objects[0].shape == "unknown"


def test_a_caption_outside_the_grammar_is_a_user_error():
    with pytest.raises(UserError, match="grammar"):
        judge(draw_objects(), "a cat")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([16, 32, 48, 64]), st.floats(0, 12))
def test_any_image_can_be_judged(seed, size, smoothness):
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (int(2 + smoothness), int(2 + smoothness), 3))
    image = np.kron(cells, np.ones((size, size, 1)))[:: len(cells), :: len(cells)][:size, :size].astype(np.uint8)
    for level in LEVELS:
        scene = sample_scene(level, rng, "train")
        judgement = judge_scene(perceive(image), scene, "")
        assert len(judgement.parts) >= 3


@pytest.mark.parametrize("level", LEVELS)
def test_a_near_miss_is_a_different_scene_of_the_level_whose_captions_parse(level):
    rng = np.random.default_rng(level)
    for _ in range(60):
        scene = sample_scene(level, rng, "train")
        missed = near_miss(scene, rng)
        assert missed != scene
        assert missed.level == level
        assert parse(captions(missed)[0]) == missed


def test_a_near_miss_at_level_1_changes_one_attribute():
    rng = np.random.default_rng(0)
    thing = SceneObject("red", "circle", "big")
    for _ in range(100):
        other = near_miss(Scene(1, "single", (thing,)), rng).objects[0]
        changed = [name for name in ("colour", "shape", "size") if getattr(other, name) != getattr(thing, name)]
        assert len(changed) == 1
