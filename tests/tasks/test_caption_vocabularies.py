import json
from dataclasses import replace

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.pipelines.load.text import load_text
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.text.bart_bpe import BartBpe
from dalle_jax.text.byte_pairs import byte_letters
from dalle_jax.text.clip_bpe import ClipBpe
from dalle_jax.text.sentencepiece import SentencePieceModel, train_sentencepiece

PAD = {SentencePieceModel: 0, ClipBpe: 0, BartBpe: 1}


@pytest.fixture(params=PAD)
def captions(request, tmp_path) -> Captions:
    path = tmp_path / "vocab.json"
    if request.param is SentencePieceModel:
        path.write_bytes(train_sentencepiece(["a red circle", "a blue square"] * 5, 30, "bpe", 0))
        return Captions(file=str(path), dropout=0.5)
    if request.param is ClipBpe:
        path = tmp_path / "clip.txt"
        path.write_text("#version: 0.2\nr e\nre d</w>\n", encoding="utf-8")
        return Captions(file=str(path), dropout=0.5, vocabulary=ClipBpe(lower=False))
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *byte_letters(), "re", "red"]
    path.write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\nr e\nre d\n", encoding="utf-8")
    return Captions(file=str(path), dropout=0.5, vocabulary=BartBpe(lower=True))


def test_a_checkpoint_carries_the_text_tokenizer(captions, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name, content in captions.open(9).files().items():
        (folder / name).write_bytes(content)
    texts = ["a RED circle", "", "red red red red red red"]
    loaded = load_text(folder, 9)
    np.testing.assert_array_equal(loaded.encode_batch(texts), captions.open(9).rows(texts, None))
    assert loaded.pad_id == PAD[type(captions.vocabulary)]
    with pytest.raises(UserError, match=r"expected text\.model, the text tokenizer"):
        load_text(tmp_path, 9)


def test_merges_are_dropped_by_the_seed_of_each_caption_and_only_in_training(captions):
    tokenizer = captions.open(16)
    texts = ["red a red"] * 20
    seeds = [(1, row) for row in range(20)]
    dropped = tokenizer.rows(texts, seeds)
    np.testing.assert_array_equal(dropped, tokenizer.rows(texts, seeds))
    np.testing.assert_array_equal(dropped[5:7], tokenizer.rows(texts[5:7], seeds[5:7]))
    assert len({row.tobytes() for row in dropped}) > 3
    assert len({row.tobytes() for row in tokenizer.rows(texts, None)}) == 1


def test_a_model_with_a_different_vocabulary_or_padding_is_refused(captions):
    tokenizer = captions.open(8)
    found = tokenizer.tokenizer.vocab_size
    pad = PAD[type(captions.vocabulary)]
    tokenizer.check_model(found, "here", pad=pad)
    with pytest.raises(UserError, match=f"here: expected {found}"):
        tokenizer.check_model(found - 1, "here", pad=pad)
    with pytest.raises(UserError, match=f"pads with id {1 - pad}"):
        tokenizer.check_model(found, "here", pad=1 - pad)
    if captions.vocabulary.published:
        tokenizer.check_model(found + 7, "here", pad=pad)
    else:
        with pytest.raises(UserError, match="expected"):
            tokenizer.check_model(found + 7, "here", pad=pad)


def test_a_model_with_a_different_empty_caption_is_refused(captions):
    tokenizer = captions.open(8)
    found, pad = tokenizer.tokenizer.vocab_size, PAD[type(captions.vocabulary)]
    empty = {SentencePieceModel: (), ClipBpe: (found - 2, found - 1), BartBpe: (0, 2)}[type(captions.vocabulary)]
    tokenizer.check_model(found, "here", pad=pad, empty=empty)
    with pytest.raises(UserError, match=rf"task\.model\.empty_caption: expected \({', '.join(map(str, empty))}"):
        tokenizer.check_model(found, "here", pad=pad, empty=(*empty, 5))


def test_dropout_is_a_share():
    with pytest.raises(ValueError, match=r"share of the merges"):
        Captions(file="none", dropout=1.0)


def test_opening_without_the_file_is_refused_except_for_a_plan(captions, tmp_path):
    missing = replace(captions, file=str(tmp_path / "missing" / "vocab.json"))
    assert missing.open_if_present(8) is None
    with pytest.raises(UserError, match="missing"):
        missing.open(8)
    assert captions.open_if_present(8).tokenizer.vocab_size == captions.open(8).tokenizer.vocab_size


def test_the_check_of_the_empty_caption_is_not_counted(captions):
    tokenizer, pad = captions.open(8), PAD[type(captions.vocabulary)]
    with pytest.raises(UserError, match="empty_caption"):
        tokenizer.check_model(tokenizer.tokenizer.vocab_size, "here", pad=pad, empty=(5, 5, 5))
    assert tokenizer.truncated()[:2] == (0, 0)
