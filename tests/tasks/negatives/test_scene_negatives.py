import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.scenes.grammar import captions, is_held_out, parse
from dalle_jax.scenes.judge import judge
from dalle_jax.scenes.scene import Scene
from dalle_jax.scenes.scene_neighbours import seen_neighbours
from dalle_jax.tasks.negatives.scene_negatives import SceneNegatives, _halves

CAPTION = "there is a yellow ring over a black cross"


def caption_of(scene: Scene) -> str:
    return captions(scene)[0]


def test_wrong_captions_have_the_phrasing_of_the_right_one_and_each_kind_of_change_once():
    wrong = SceneNegatives(texts=6).wrong_captions(CAPTION, 3)
    assert len(set(wrong)) == 6 and all(text.startswith("there is a ") for text in wrong)
    assert {"there is a black cross over a yellow ring", "there is a black ring over a yellow cross",
            "there is a yellow ring to the left of a black cross"} < set(wrong)  # fmt: skip
    assert not any(is_held_out(parse(text)) or parse(text) == parse(CAPTION) for text in wrong)
    again = SceneNegatives(texts=6)
    assert again.wrong_captions(CAPTION, 3) == wrong != again.wrong_captions(CAPTION, 4)


def test_a_neighbours_image_shows_its_own_caption_and_not_the_examples():
    found = SceneNegatives(texts=0, images=6).neighbours(CAPTION, 32, 5)
    assert len(found) == 6
    for image, caption, listed in found:
        assert judge(image, caption).right and not judge(image, CAPTION).right
        assert caption in listed and len(listed) == 16


def test_a_blend_shows_neither_the_scene_nor_a_neighbour():
    negatives = SceneNegatives(texts=0, blends=8)
    images = negatives.blended(CAPTION, 64, 5)
    near = [caption for found in seen_neighbours(parse(CAPTION)).values() for caption in map(caption_of, found)]
    assert len(images) == 8
    assert [any(judge(image, caption).right for caption in [CAPTION, *near]) for image in images].count(True) <= 2
    own, theirs = np.zeros((6, 6, 3), np.uint8), np.zeros((6, 6, 3), np.uint8)
    theirs[1:5, 2:4] = 9
    assert np.argwhere(_halves(own, theirs, axis=0)[..., 0]).tolist() == [[3, 2], [3, 3], [4, 2], [4, 3]]
    assert np.argwhere(_halves(own, theirs, axis=1)[..., 0])[:, 1].tolist() == [3] * 4


def test_a_caption_outside_the_grammar_is_refused():
    with pytest.raises(UserError, match="expected a caption in the grammar of the scenes, got 'a cat'"):
        SceneNegatives().wrong_captions("a cat", 0)
    with pytest.raises(ValueError, match="texts, images, blends: expected one above 0, got none"):
        SceneNegatives(texts=0)
