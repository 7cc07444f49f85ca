import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.scenes.grammar import is_held_out, parse
from dalle_jax.scenes.judge import judge
from dalle_jax.tasks.negatives.scene_negatives import SceneNegatives

CAPTION = "there is a yellow ring over a black cross"


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
    for image, caption, captions in found:
        assert judge(image, caption).right and not judge(image, CAPTION).right
        assert caption in captions and len(captions) == 16


def test_a_caption_outside_the_grammar_is_refused():
    with pytest.raises(UserError, match="expected a caption in the grammar of the scenes, got 'a cat'"):
        SceneNegatives().wrong_captions("a cat", 0)
    with pytest.raises(ValueError, match="texts, images: expected at least one of them above 0"):
        SceneNegatives(texts=0)
