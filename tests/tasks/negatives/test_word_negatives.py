import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.data.sources.scenes import Scenes
from dalle_jax.tasks.negatives.word_negatives import WordChanges, WordNegatives

SOURCE = Scenes(32, (1, 2), 100, 0, "train")
EXAMPLES = [
    ["a big dog sees a cat", "a large dog sees a cat"],
    ["a big cat sees a dog", "a large cat sees a dog"],
    ["a red dog"],
]


def test_words_are_replaced_or_swapped_by_the_places_where_they_were_seen():
    changes = WordChanges.of(WordNegatives(SOURCE, texts=40), EXAMPLES)
    assert changes.synonyms == {("big", "large"), ("large", "big")}
    wrong = set(changes.wrong_captions("a big dog sees a cat", 1))
    assert wrong == {"a red dog sees a cat", "a big cat sees a cat", "a big dog sees a dog", "a big cat sees a dog"}
    assert changes.wrong_captions("nothing known here", 1) == [""] * 40


def test_the_captions_of_scenes_give_wrong_captions_without_a_grammar():
    changes = WordNegatives(Scenes(32, (1, 2), 400, 0, "train"), captioned=400, texts=30).open()
    assert {("above", "over"), ("big", "large")} < changes.synonyms
    assert not {("above", "below"), ("red", "blue"), ("left", "right")} & changes.synonyms
    wrong = changes.wrong_captions("a red ring above a blue cross", 0)
    assert {"a blue ring above a red cross", "a red cross above a blue ring"} < set(wrong)
    assert "a red ring over a blue cross" not in wrong
    assert changes.wrong_captions("a red ring above a blue cross", 0) == wrong


def test_captions_that_show_no_two_words_at_one_place_are_refused():
    with pytest.raises(UserError, match="expected captions in which two words are seen at one place"):
        WordNegatives(Scenes(32, (6,), 1, 0, "train"), captioned=1).open()
