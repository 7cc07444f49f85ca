import gzip
import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from byte_vocabularies import CLIP
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle_jax.config.errors import UserError
from dalle_jax.text.byte_pairs import read_text
from dalle_jax.text.clip_bpe import FILE, ClipBpe

BEGIN, END = 512 + 7, 512 + 8


def tokenizer(length=12, **choices):
    return ClipBpe(**choices).tokenizer({FILE: CLIP.encode()}, length)


def test_a_caption_gets_begin_end_and_the_chosen_padding():
    text = tokenizer()
    row = text.encode("Red  CIRCLE")
    red, circle = 512 + 1, 512 + 6
    assert row.tolist() == [BEGIN, red, circle, END, *[0] * 8]
    assert (text.vocab_size, text.pad_id) == (END + 1, 0)
    ended = tokenizer(pad="end")
    assert ended.encode("red circle").tolist() == [BEGIN, red, circle, *[END] * 9]
    assert ended.pad_id == END
    assert text.encode("").tolist() == [BEGIN, END, *[0] * 10]


def test_a_truncated_caption_keeps_its_end():
    text = tokenizer(length=4)
    rows = text.encode_batch(["red red red", "red red"])
    red = 512 + 1
    assert rows.tolist() == [[BEGIN, red, red, END]] * 2
    assert text.lengths(["red red red", "red"]) == [5, 3]
    with pytest.raises(UserError, match="expected at least 2"):
        tokenizer(length=1)


def test_encodings_and_entities_are_fixed_before_splitting():
    text = tokenizer(length=32)
    same = ["<b> & é", "&lt;b&gt; &amp;amp; Ã©", " <B>\t&\n É "]
    assert len({text.encode(one).tobytes() for one in same}) == 1
    assert text.pieces("don't 12") == ["d", "o", "n</w>", "'", "t</w>", "1</w>", "2</w>"]
    kept = tokenizer(lower=False)
    assert kept.pieces("RED Red") != text.pieces("RED Red") == ["red</w>", "red</w>"]


def test_special_tokens_in_a_caption_are_plain_text():
    row = tokenizer(length=64).encode("<start_of_text> <|endoftext|> <end_of_text>")
    assert (np.count_nonzero(row == BEGIN), np.count_nonzero(row == END)) == (1, 1)


def test_bpe_dropout_splits_finer_keeps_the_text_and_repeats_with_its_seed():
    text = tokenizer(length=40)
    captions = ["red circle red circle"] * 20

    def draws():
        return [np.random.default_rng(row) for row in range(20)]

    dropped = text.encode_batch(captions, rngs=draws(), dropout=0.5)
    np.testing.assert_array_equal(dropped, text.encode_batch(captions, rngs=draws(), dropout=0.5))
    np.testing.assert_array_equal(text.encode_batch(captions, rngs=draws(), dropout=1e-12), text.encode_batch(captions))
    assert len({row.tobytes() for row in dropped}) > 10
    assert all(text.decode(row) == captions[0] for row in dropped)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_any_text_decodes_to_a_text_with_the_same_ids(caption):
    text = tokenizer(length=400)
    row = text.encode(caption)
    assert row.min() >= 0
    assert row.max() < text.vocab_size
    again = text.encode(text.decode(row))
    np.testing.assert_array_equal(again, text.encode(text.decode(again)))


def test_a_long_word_is_split_in_parts():
    assert tokenizer(length=8).lengths(["x" * 20_000]) == [20_002]


def test_a_vocabulary_may_be_gzipped_and_other_files_are_refused(tmp_path):
    plain, packed = tmp_path / "a", tmp_path / "b"
    plain.write_text(CLIP, encoding="utf-8")
    packed.write_bytes(gzip.compress(CLIP.encode()))
    config = ClipBpe()
    rows = [config.tokenizer(config.files(str(one)), 9).encode("a red dot") for one in (plain, packed)]
    np.testing.assert_array_equal(*rows)
    with pytest.raises(UserError, match="found none at"):
        config.files(str(tmp_path / "c"))
    with pytest.raises(UserError, match="ends early"):
        read_text(packed.read_bytes()[:-9], "b")
    with pytest.raises(UserError, match="expected UTF-8 text"):
        read_text(b"\xff\xfe\x00", "c")
    with pytest.raises(UserError, match="at most"):
        read_text(gzip.compress(bytes(65 * 2**20)), "bomb")
    with pytest.raises(UserError, match=rf"{FILE}:2: expected two pieces"):
        config.tokenizer({FILE: b"#version: 0.2\nabc\n"}, 9)
    with pytest.raises(UserError, match="expected a merge on each line"):
        config.tokenizer({FILE: b"#version: 0.2\n"}, 9)


def published_vocabulary():
    """Return the path in ``DALLE_JAX_CLIP_VOCABULARY``, or that of an installed open_clip_torch."""
    named = os.environ.get("DALLE_JAX_CLIP_VOCABULARY")
    found = None if named else find_spec("open_clip")
    if named is None and (found is None or found.origin is None):
        pytest.skip("DALLE_JAX_CLIP_VOCABULARY is unset and open_clip_torch is not installed")
    return named or str(Path(found.origin).parent / f"{FILE}.gz")


@pytest.mark.reference
def test_ids_equal_the_recorded_ones_of_the_published_tokenizer():
    if "DALLE_JAX_PARITY" not in os.environ:
        pytest.skip("DALLE_JAX_PARITY is unset")
    config = ClipBpe()
    path = Path(os.environ["DALLE_JAX_PARITY"]) / "clip_tokenizer" / "cases.json"
    text = config.tokenizer(config.files(published_vocabulary()), 77)
    assert text.vocab_size == 49_408
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    assert cases
    for case in cases:
        assert [text.id_of(piece) for piece in text.split(case["text"])] == case["ids"], case["text"]
        assert text.encode(case["text"]).tolist() == case["padded77"], case["text"]
