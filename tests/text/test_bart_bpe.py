import json
import os
from pathlib import Path

import numpy as np
import pytest
from byte_vocabularies import MERGES, VOCABULARY, write_bart, write_tokenizer_json

from dalle_jax.config.errors import UserError
from dalle_jax.text.bart_bpe import BartBpe


def tokenizer(length=10, **choices):
    files = {"vocab.json": json.dumps(VOCABULARY).encode(), "merges.txt": MERGES.encode()}
    return BartBpe(**choices).tokenizer(files, length)


def test_a_caption_gets_begin_end_and_padding_with_id_1():
    text = tokenizer()
    ids = [VOCABULARY[one] for one in ("red", "Ġa", "Ġred", "Ġ", "B")]
    assert text.encode("red a red B").tolist() == [0, *ids, 2, 1, 1, 1]
    assert text.encode("").tolist() == [0, 2, *[1] * 8]
    assert text.pad_id == 1
    assert text.vocab_size == VOCABULARY["<mask>"]
    assert text.decode(text.encode("red a red B")) == "red a red B"
    assert tokenizer(lower=True).pieces("RED") == text.pieces("red") != text.pieces("RED")


def test_a_truncated_bart_caption_keeps_its_end():
    text = tokenizer(length=4)
    assert text.encode("red a red red").tolist() == [0, VOCABULARY["red"], VOCABULARY["Ġa"], 2]


def test_words_keep_the_space_before_them():
    assert tokenizer().pieces("it's 12,  é\n") == [
        *"it", "'", "s", "Ġ", "1", "2", ",", "Ġ", "Ġ", "Ã", "©", "Ċ",
    ]  # fmt: skip


def test_any_text_is_decoded_unchanged():
    text = tokenizer(length=200)
    for one in ("漢字 🐱  and\tré'll ½ _x_", "don't", "a\u0301"):
        assert text.decode(text.encode(one)) == one
    row = text.encode("</s> <s> <pad> <mask>")
    assert np.count_nonzero(row == 2) == 1 and VOCABULARY["<mask>"] not in row


def test_min_dalles_variant_lower_cases_and_keeps_ascii_only():
    pytest.importorskip("emoji")
    text = tokenizer(length=24, variant="min_dalle")
    assert text.pieces("RED é a\tb 🐱") == ["Ġred", "Ġa", "\t", "b", "Ġ", *"cat_face"]
    assert text.encode("a\tb").tolist()[:5] == [0, VOCABULARY["Ġa"], 3, VOCABULARY["b"], 2]
    cut = tokenizer(length=3, variant="min_dalle")
    assert cut.encode("red red red").tolist() == [0, VOCABULARY["Ġred"], VOCABULARY["Ġred"]]


def test_missing_and_broken_bart_files_are_refused(tmp_path):
    path = write_bart(tmp_path)
    config = BartBpe()
    assert config.tokenizer(config.files(str(path)), 10).encode("red").tolist() == tokenizer().encode("red").tolist()
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"found no merges\.txt"):
        config.files(str(path))
    for content, said in (
        (b"[", "got invalid JSON"),
        (b"[1]", "something else"),
        (b'{"a": true}', "something else"),
        (b'{"<s>": 0, "</s>": 2}', "<pad>, <unk>"),
    ):
        with pytest.raises(UserError, match=said):
            config.tokenizer({"vocab.json": content, "merges.txt": MERGES.encode()}, 10)


def test_a_tokenizer_json_gives_the_same_vocabulary(tmp_path):
    config = BartBpe()
    for pairs in (True, False):
        path = write_tokenizer_json(tmp_path, VOCABULARY, MERGES, "<mask>", pairs)
        files = config.files(str(path))
        assert json.loads(files["vocab.json"]) == VOCABULARY and files["merges.txt"].decode() == MERGES
        assert config.tokenizer(files, 10).encode("red").tolist() == tokenizer().encode("red").tolist()
    for content, said in (
        (b"[", "something else"),
        (b"{}", "something else: 'model'"),
        (b'{"model": {"type": "BPE", "vocab": 3, "merges": []}}', "something else"),
        (b'{"model": {"type": "BPE", "vocab": {}, "merges": [1]}}', "something else"),
        (b'{"model": {"type": "WordPiece", "vocab": {}, "merges": []}}', "expected model.type BPE, got 'WordPiece'"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"tokenizer\.json: .*" + said):
            config.files(str(path))


def test_ids_equal_the_recorded_ones_of_min_dalle():
    if "DALLE_JAX_PARITY" not in os.environ:
        pytest.skip("DALLE_JAX_PARITY is unset")
    pytest.importorskip("emoji")
    folder = Path(os.environ["DALLE_JAX_PARITY"]) / "min_dalle"
    config = BartBpe(variant="min_dalle")
    cases = json.loads((folder / "tokenizer_cases.json").read_text(encoding="utf-8"))
    assert cases
    text = config.tokenizer(config.files(str(folder / "vocab.json")), 2 + max(len(case["ids"]) for case in cases))
    for case in cases:
        row = text.encode(case["text"]).tolist()
        count = len(case["ids"])
        assert row == case["ids"] + [1] * (len(row) - count), case["text"]
