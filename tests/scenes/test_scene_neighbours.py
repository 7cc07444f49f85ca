"""Neighbours of scenes: one part or the order differs, and training's neighbours hold nothing out."""

import numpy as np
import pytest

from dalle_jax.scenes.grammar import captions, parse, sample_scene
from dalle_jax.scenes.scene import LEVELS
from dalle_jax.scenes.scene_neighbours import neighbours, seen_neighbours
from dalle_jax.scenes.split import is_held_out


@pytest.mark.parametrize("level", LEVELS)
def test_a_neighbour_is_another_scene_of_the_level_with_captions_of_its_own(level):
    rng = np.random.default_rng(level)
    for _ in range(20):
        scene = sample_scene(level, rng, "train")
        for kind, found in neighbours(scene).items():
            assert found and scene not in found and len(set(found)) == len(found), kind
            for one in found:
                assert one.level == level and parse(captions(one)[-1]) == one
                assert len(captions(one)) == len(captions(scene)) and not set(captions(one)) & set(captions(scene))
        seen = seen_neighbours(scene)
        assert seen and not any(is_held_out(one) for found in seen.values() for one in found)
        wanted = {kind: [one for one in found if not is_held_out(one)] for kind, found in neighbours(scene).items()}
        assert {kind: list(found) for kind, found in seen.items()} == {kind: own for kind, own in wanted.items() if own}


@pytest.mark.parametrize(
    ("caption", "kind", "wanted"),
    [
        ("a red ring above a blue cross", "swapped colours", {"a blue ring above a red cross"}),
        ("a red ring above a blue cross", "swapped shapes", {"a red cross above a blue ring"}),
        ("a red ring above a blue cross", "order", {"a blue cross above a red ring"}),
        ("a red ring above a blue cross", "direction", {"a red ring left of a blue cross"}),
        ("a small red ring", "size", {"a big red ring"}),
        ("two blue hearts", "count", {"three blue hearts", "four blue hearts"}),
        ("a yellow ring on a blue background", "order", {"a blue ring on a yellow background"}),
        ('a red sign that says "CAT"', "order", {'a red sign that says "ACT"', 'a red sign that says "CTA"'}),
    ],
)
def test_the_neighbours_of_a_kind(caption, kind, wanted):
    assert {captions(one)[0] for one in neighbours(parse(caption))[kind]} == wanted


def test_a_held_out_scene_keeps_neighbours_with_held_out_combinations():
    scene = parse("a small red heart")
    assert is_held_out(scene) and seen_neighbours(scene) == neighbours(scene)
