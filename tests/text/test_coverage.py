import pytest

from dalle_jax.text.coverage import measure
from dalle_jax.text.sentencepiece import SentencePiece, train_sentencepiece

CAPTIONS = ["a red circle", "a blue square", "a green ring"] * 7


@pytest.fixture(scope="module")
def model():
    return train_sentencepiece(CAPTIONS, 40, "bpe", 0)


def test_lengths_and_cuts_are_those_of_the_tokenizer(model):
    seen = ["a", *CAPTIONS[:19]]
    found = measure(model, seen, text_length=5)
    counts = sorted(SentencePiece(model, 4).lengths(seen))
    assert found.lengths.mean == pytest.approx(sum(counts) / 20)
    assert (found.lengths.p95, found.lengths.longest) == (counts[18], counts[-1])
    assert found.lengths.cut == sum(one > 5 for one in counts) / 20
    assert found.pieces == SentencePiece(model, 4).vocab_size
    assert found.with_dropout is None and measure(model, seen).lengths.cut is None


def test_what_is_unknown_is_counted_and_named(model):
    found = measure(model, ["a 漢 red", "漢", "a red Ж"])
    whole = sum(SentencePiece(model, 4).lengths(["a 漢 red", "漢", "a red Ж"]))
    assert found.unknown == 3 / whole
    assert found.strange[0].strip("\u2581") == "漢" and len(found.strange) == 2
    assert measure(model, CAPTIONS).unknown == 0.0


def test_dropping_merges_makes_captions_longer_and_the_words_say_so(model):
    found = measure(model, CAPTIONS, text_length=6, dropout=0.5)
    assert found.with_dropout.mean > 1.2 * found.lengths.mean
    assert found.with_dropout.cut >= found.lengths.cut
    said = found.words(6, 0.5)
    assert "are cut at 6" in said and "with 50% of the merges dropped" in said
