import hashlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle_jax.config.errors import UserError
from dalle_jax.scenes.grammar import Scene, SceneObject, caption, captions, parse, sample_scene
from dalle_jax.scenes.scene import LEVELS


@pytest.mark.parametrize("level", LEVELS)
def test_every_caption_of_a_scene_parses_to_that_scene(level):
    rng = np.random.default_rng(level)
    for number in range(80):
        scene = sample_scene(level, rng, "held_out" if number % 2 else "train")
        phrasings = captions(scene)
        assert len(set(phrasings)) == len(phrasings) >= 4
        for phrasing in phrasings:
            assert parse(phrasing) == scene
            assert parse(f"  {phrasing.upper()}. ") == scene


@pytest.mark.parametrize("level", LEVELS)
def test_exactly_the_listed_captions_are_drawn(level):
    rng = np.random.default_rng(level)
    scene = sample_scene(level, rng, "train")
    assert {caption(scene, rng) for _ in range(600)} == set(captions(scene))


def test_captions_equal_those_that_models_were_trained_on():
    rng = np.random.default_rng(7)
    digest = hashlib.sha256()
    for level in LEVELS:
        for _ in range(50):
            scene = sample_scene(level, rng, "train")
            digest.update("\n".join([*captions(scene), caption(scene, rng)]).encode())
    assert digest.hexdigest()[:16] == "926ced498ef8b3eb"


def test_a_relation_and_its_inverse_describe_the_same_scene():
    above = parse("a red circle above a blue square")
    assert parse("a blue square is below a red circle") == above
    assert parse("there is a blue square under a red circle") == above
    assert above == Scene(2, "vertical", (SceneObject("red", "circle"), SceneObject("blue", "square")))
    right = parse("a red circle to the right of a blue square")
    assert right == parse("a blue square left of a red circle")
    assert right.objects[0] == SceneObject("blue", "square")


def test_a_stack_reads_the_same_from_either_end():
    down = parse("from top to bottom: a red circle, a blue ring, a pink heart")
    assert parse("from bottom to top: a pink heart, a blue ring, a red circle") == down
    assert parse("a red circle on top of a blue ring on top of a pink heart") == down


def test_different_scenes_never_share_a_caption():
    rng = np.random.default_rng(0)
    owner = {}
    for level in LEVELS:
        for _ in range(100):
            scene = sample_scene(level, rng, "train")
            for phrasing in captions(scene):
                assert owner.setdefault(phrasing, scene) == scene


@pytest.mark.parametrize(
    "text", ["", "a mauve circle", "a big red circle above a blue square", 'a red sign that says "CATS"']
)
def test_a_sentence_outside_the_grammar_is_an_error_with_examples(text):
    with pytest.raises(UserError, match="legal captions are"):
        parse(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_parses_or_is_a_user_error(text):
    with suppress(UserError):
        assert isinstance(parse(text), Scene)
