import pytest

from dalle_jax.text.coverage import measure_coverage
from dalle_jax.text.sentencepiece import SentencePiece, train_sentencepiece

CAPTIONS = ["a red circle", "a blue square", "a green ring"] * 7


@pytest.fixture(scope="module")
def model():
    return train_sentencepiece(CAPTIONS, 40, "bpe", 0)


def test_lengths_and_truncation_equal_those_of_the_tokenizer(model):
    captions = ["a", *CAPTIONS[:19]]
    found = measure_coverage(model, captions, text_length=5)
    counts = sorted(SentencePiece(model, 4).lengths(captions))
    assert found.lengths.mean == pytest.approx(sum(counts) / 20)
    assert (found.lengths.p95, found.lengths.longest) == (counts[18], counts[-1])
    assert found.lengths.truncated == sum(one > 5 for one in counts) / 20
    assert found.pieces == SentencePiece(model, 4).vocab_size
    assert found.with_dropout is None and measure_coverage(model, captions).lengths.truncated is None


def test_unknown_tokens_are_counted_and_listed(model):
    found = measure_coverage(model, ["a 漢 red", "漢", "a red Ж"])
    whole = sum(SentencePiece(model, 4).lengths(["a 漢 red", "漢", "a red Ж"]))
    assert found.unknown_share == 3 / whole
    assert found.unknown_pieces[0].strip("\u2581") == "漢" and len(found.unknown_pieces) == 2
    assert measure_coverage(model, CAPTIONS).unknown_share == 0.0


def test_bpe_dropout_makes_captions_longer_and_the_text_shows_it(model):
    found = measure_coverage(model, CAPTIONS, text_length=6, dropout=0.5)
    assert found.with_dropout.mean > 1.2 * found.lengths.mean
    assert found.with_dropout.truncated >= found.lengths.truncated
    text = found.format_text(6, 0.5)
    assert "are truncated at 6" in text and "with 50% of the merges dropped" in text
