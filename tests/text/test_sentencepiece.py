import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle_jax.config.errors import UserError
from dalle_jax.scenes.grammar import caption, sample_scene
from dalle_jax.text.sentencepiece import PAD, UNKNOWN, SentencePiece, normalize, train_sentencepiece


def some_captions(count=300):
    rng = np.random.default_rng(0)
    return [caption(sample_scene(1 + i % 6, rng, "train"), rng) for i in range(count)]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def model(request):
    return train_sentencepiece(some_captions(), vocab_size=160, model_type=request.param, seed=0)


@pytest.fixture(scope="module")
def bpe():
    return SentencePiece(train_sentencepiece(some_captions(), vocab_size=160, model_type="bpe", seed=0), length=48)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_training_twice_gives_the_same_bytes_and_prints_nothing(model_type, capfd):
    models = [train_sentencepiece(some_captions(), vocab_size=96, model_type=model_type, seed=0) for _ in range(2)]
    assert models[0] == models[1]
    assert capfd.readouterr() == ("", "")


def rngs(captions):
    return [np.random.default_rng((1, row)) for row in range(len(captions))]


def test_captions_survive_encoding_and_decoding(model):
    text = SentencePiece(model, length=64)
    for one in some_captions(50):
        assert text.decode(text.encode(one)) == one.lower()


def test_padding_is_zero_and_the_empty_caption_is_all_padding(model):
    text = SentencePiece(model, length=32)
    assert not text.encode("").any()
    assert not text.encode("  \n").any()
    ids = text.encode("a red circle")
    used = np.flatnonzero(ids)
    assert (used == np.arange(len(used))).all()
    assert (ids[len(used) :] == PAD).all()
    assert text.encode_batch([]).shape == (0, 32)


def test_unseen_characters_get_the_unknown_id(model):
    text = SentencePiece(model, length=32)
    ids = text.encode("a 漢字 circle \ud800 \x00")
    assert UNKNOWN in ids
    assert ids.max() < text.vocab_size


def test_long_captions_are_truncated(model):
    text = SentencePiece(model, length=4)
    whole = SentencePiece(model, length=64)
    captions = ["a red circle " * 5, "a"]
    np.testing.assert_array_equal(text.encode_batch(captions), whole.encode_batch(captions)[:, :4])


def test_case_folding_is_chosen_when_a_model_is_trained():
    captions = [*some_captions(100), *(one.upper() for one in some_captions(100))]
    folded = SentencePiece(train_sentencepiece(captions, 96, "bpe", 0, lower=True), 48)
    kept = SentencePiece(train_sentencepiece(captions, 96, "bpe", 0, lower=False), 48)
    np.testing.assert_array_equal(folded.encode("A RED circle"), folded.encode("a red CIRCLE"))
    assert kept.decode(kept.encode("A RED circle")) == "A RED circle"


def test_bpe_without_dropout_equals_the_librarys_bpe(bpe):
    rng = np.random.default_rng(0)
    for one in [*some_captions(100), "unseen 漢字 words!", "", "x"]:
        ours = bpe.encode_batch([one], rngs=[rng], dropout=1e-12)
        np.testing.assert_array_equal(ours[0], bpe.encode(one))


def test_bpe_dropout_splits_finer_keeps_the_text_and_repeats_with_its_seed(bpe):
    captions = some_captions(60)
    dropped = bpe.encode_batch(captions, rngs=rngs(captions), dropout=0.3)
    again = bpe.encode_batch(captions, rngs=rngs(captions), dropout=0.3)
    np.testing.assert_array_equal(dropped, again)
    assert (dropped != bpe.encode_batch(captions)).any()
    assert (dropped != PAD).sum() > 1.1 * (bpe.encode_batch(captions) != PAD).sum()
    short = [i for i, row in enumerate(dropped) if row[-1] == PAD]
    assert len(short) > 30
    assert all(bpe.decode(dropped[i]) == captions[i].lower() for i in short)


def test_dropping_all_merges_leaves_single_characters(bpe):
    ids = bpe.encode_batch(["red"], rngs=rngs(["red"]), dropout=1.0)[0]
    assert (ids != PAD).sum() == len("_red")


def test_dropout_needs_a_bpe_model():
    text = SentencePiece(train_sentencepiece(some_captions(), 96, "unigram", 0), 32)
    with pytest.raises(UserError, match="bpe"):
        text.encode_batch(["a red circle"], rngs=rngs(["red"]), dropout=0.1)


def test_a_vocabulary_is_smaller_if_the_captions_do_not_yield_as_many_pieces():
    for model_type in ("bpe", "unigram"):
        text = SentencePiece(train_sentencepiece(["ab cd", "ab"], 500, model_type, 0), 8)
        assert text.vocab_size < 20
        assert text.decode(text.encode("ab cd")) == "ab cd"


def test_missing_text_and_broken_models_are_user_errors():
    with pytest.raises(UserError, match="captions"):
        train_sentencepiece(["", "  "], 96, "bpe", 0)
    with pytest.raises(UserError, match="vocab_size: expected at least 29, the different letters"):
        train_sentencepiece(some_captions(20), 3, "bpe", 0)
    with pytest.raises(UserError, match="SentencePiece model"):
        SentencePiece(b"not a model", 8)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=50))
def test_any_text_can_be_encoded(bpe, text):
    ids = bpe.encode(text)
    assert ids.shape == (48,)
    assert ids.min() >= 0
    assert ids.max() < bpe.vocab_size
    assert normalize(normalize(text)) == normalize(text)


def test_normalize_returns_one_line_of_nfc():
    assert normalize("  a\tred \n circle\x00 ") == "a red circle"
    assert normalize("e\u0301") == "\u00e9"
    assert normalize("Ä B") == "Ä B"


@pytest.mark.parametrize(
    ("captions", "size", "message"),
    [
        (
            ["a b c d e f g h"],
            5,
            "vocab_size: expected at least 11, the different letters of the captions and 2 special",
        ),
        (["abc"], 0, "vocab_size: expected at least 3, got 0"),
        (["\u2581", " "], 9, "expected captions to train a text tokenizer on, got none with any text"),
        (["x" * 70_000], 9, "expected captions to train a text tokenizer on, got 1 of more than 65,536 bytes"),
    ],
)
@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_captions_that_give_no_model_are_refused_in_our_words(captions, size, message, model_type):
    with pytest.raises(UserError) as caught:
        train_sentencepiece(captions, size, model_type, 0)
    assert message in str(caught.value) and ".cc" not in str(caught.value) and "INTERNAL" not in str(caught.value)


def test_bytes_of_something_else_are_refused_in_our_words():
    with pytest.raises(UserError, match=r"expected the bytes of a SentencePiece model, got 7 bytes of something else$"):
        SentencePiece(b"\x0a\x05abcde", 3)
