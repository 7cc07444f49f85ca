from itertools import product

import numpy as np
import pytest

from dalle_jax.scenes.grammar import Scene, SceneObject, captions, is_held_out, parse, sample_scene
from dalle_jax.scenes.scene import COLOURS, COUNTS, LETTERS, LEVELS, SHAPES, SIZES
from dalle_jax.scenes.split import (
    _DRAW,
    HELD_OUT_BACKGROUND,
    HELD_OUT_COLOUR_SHAPE,
    HELD_OUT_COUNT_SHAPE,
    HELD_OUT_LETTERS,
    HELD_OUT_RELATION,
    PROMPTED,
    is_in_split,
)

THINGS = [SceneObject(colour, shape) for colour, shape in product(COLOURS, SHAPES)]


def every_scene(level):
    """List all scenes of a level; levels 4 and 6 have too many."""
    if level == 1:
        return [Scene(1, "single", (SceneObject(c, s, z),)) for c, s, z in product(COLOURS, SHAPES, SIZES)]
    if level == 2:
        pairs = [(a, b) for a, b in product(THINGS, THINGS) if a != b]
        return [Scene(2, axis, pair) for axis in ("vertical", "horizontal") for pair in pairs]
    if level == 3:
        return [Scene(3, "group", (thing,) * count) for thing, count in product(THINGS, COUNTS)]
    return [Scene(5, "single", (thing,), background=b) for thing, b in product(THINGS, COLOURS) if b != thing.colour]


def shows_held_out_combination(scene):
    """Look up every combination in a scene, independently of ``is_held_out``."""
    facts = {(thing.colour, thing.shape) in HELD_OUT_COLOUR_SHAPE for thing in scene.objects}
    shapes = [thing.shape for thing in scene.objects]
    if scene.level == 2:
        facts.add((shapes[0], scene.arrangement, shapes[1]) in HELD_OUT_RELATION)
    if scene.level == 3:
        facts.add((len(shapes), shapes[0]) in HELD_OUT_COUNT_SHAPE)
    if scene.level == 4:
        a, b, c = shapes
        facts |= {(first, "vertical", second) in HELD_OUT_RELATION for first, second in ((a, b), (b, c), (a, c))}
    if scene.level == 5:
        facts.add((scene.background, scene.objects[0].colour) in HELD_OUT_BACKGROUND)
    if scene.level == 6:
        facts |= {pair in scene.word for pair in HELD_OUT_LETTERS}
    return any(facts)


@pytest.mark.parametrize("level", LEVELS)
def test_no_sampled_training_or_validation_scene_shows_a_held_out_combination(level):
    rng = np.random.default_rng(level)
    for split in ("train", "validation"):
        for _ in range(1_200 if level in (4, 6) else 300):  # the others are enumerated below
            assert not shows_held_out_combination(sample_scene(level, rng, split))


@pytest.mark.parametrize("level", LEVELS)
def test_every_sampled_held_out_scene_shows_a_held_out_combination(level):
    rng = np.random.default_rng(level)
    assert all(shows_held_out_combination(sample_scene(level, rng, "held_out")) for _ in range(500))


@pytest.mark.parametrize("level", [1, 2, 3, 5])
def test_the_split_agrees_with_an_independent_look_up_on_every_scene(level):
    scenes = every_scene(level)
    assert len(set(scenes)) == len(scenes)
    assert all(is_held_out(scene) == shows_held_out_combination(scene) for scene in scenes)


@pytest.mark.parametrize("level", [1, 3, 5])
def test_every_training_scene_is_drawn(level):
    rng = np.random.default_rng(0)
    expected = {scene for scene in every_scene(level) if not is_held_out(scene)}
    drawn = {sample_scene(level, rng, "train") for _ in range(12 * len(expected))}
    assert drawn == expected


@pytest.mark.parametrize("level", LEVELS)
def test_all_captions_of_a_scene_are_on_the_same_side_of_the_split(level):
    rng = np.random.default_rng(level)
    for _ in range(100):
        scene = _DRAW[level](rng)
        assert {is_held_out(parse(caption)) for caption in captions(scene)} == {is_held_out(scene)}


def test_held_out_shares_equal_the_documented_ones():
    rng = np.random.default_rng(0)
    documented = {1: 0.167, 2: 0.395, 3: 0.31, 4: 0.62, 5: 0.29, 6: 0.11}
    for level, share in documented.items():
        measured = np.mean([is_held_out(_DRAW[level](rng)) for _ in range(1_000)])
        assert measured == pytest.approx(share, abs=0.05)
    assert len(HELD_OUT_COLOUR_SHAPE) == 8
    assert len(HELD_OUT_RELATION) == 9
    assert len(HELD_OUT_LETTERS) == 49


def test_each_part_of_a_held_out_combination_is_common_in_training():
    for colour in COLOURS:
        assert sum((colour, shape) in HELD_OUT_COLOUR_SHAPE for shape in SHAPES) == 1
        assert sum((colour, other) in HELD_OUT_BACKGROUND for other in COLOURS) == 1
    for shape in SHAPES:
        assert 1 <= sum((colour, shape) in HELD_OUT_COLOUR_SHAPE for colour in COLOURS) <= 2
        for axis in ("vertical", "horizontal"):
            assert sum((shape, axis, other) in HELD_OUT_RELATION for other in SHAPES) <= 1
            assert sum((other, axis, shape) in HELD_OUT_RELATION for other in SHAPES) <= 1
    for letter in LETTERS:
        assert sum(letter + other in HELD_OUT_LETTERS for other in LETTERS) <= 3
        assert sum(other + letter in HELD_OUT_LETTERS for other in LETTERS) <= 3
    assert not any(first == second for first, _, second in HELD_OUT_RELATION)


@pytest.mark.parametrize("level", [1, 2, 3, 5])
def test_held_out_scenes_are_prompted_or_unnamed_and_both_parts_are_large(level):
    held_out = [scene for scene in every_scene(level) if is_held_out(scene)]
    prompted = [is_in_split(scene, "prompted") for scene in held_out]
    assert prompted == [not is_in_split(scene, "unnamed") for scene in held_out]
    assert 0.25 < np.mean(prompted) < 0.75
    assert not any(is_in_split(one, "unnamed") for one in every_scene(level) if not is_held_out(one))


def test_a_scene_with_one_combination_that_no_prompt_names_is_unnamed():
    both = Scene(2, "vertical", (SceneObject("red", "heart"), SceneObject("yellow", "square")))
    assert ("red", "heart") in PROMPTED and ("yellow", "square") not in PROMPTED
    assert is_in_split(both, "unnamed") and not is_in_split(both, "prompted")
