"""GLIDE's text tokenizer on a small vocabulary; tests/parity/test_glide_sampling.py has the reference's ids."""

import gzip
import json

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.text.byte_pairs import byte_letters
from dalle_jax.text.glide_bpe import END, GlideBpe
from tests.text.byte_vocabularies import MERGES

PIECES = [*byte_letters(), "Ġa", "re", "Ġre", "Ġred", "red", END]
IDS = {piece: number for number, piece in enumerate(PIECES)}


def write(folder, end=""):
    content = {"encoder.json": json.dumps(IDS), "vocab.bpe": MERGES}
    for name, text in content.items():
        raw = text.encode()
        (folder / (name + end)).write_bytes(gzip.compress(raw) if end else raw)
    return str(folder / f"encoder.json{end}")


def tokenizer(folder, length=6, end=""):
    vocabulary = GlideBpe()
    return vocabulary.tokenizer(vocabulary.files(write(folder, end)), length)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_text_is_lower_cased_and_filled_with_the_last_id(tmp_path, end):
    found = tokenizer(tmp_path, end=end)
    wanted = [IDS["red"], IDS["Ġa"], IDS["Ġred"], *[IDS[END]] * 3]
    np.testing.assert_array_equal(found.encode_batch(["RED a red", ""]), [wanted, [IDS[END]] * 6])
    assert found.decode(wanted) == "red a red" and found.pad_id == IDS[END] == found.vocab_size - 1
    assert found.lengths(["red a red", ""]) == [3, 0]


def test_a_long_text_is_truncated_without_an_end(tmp_path):
    found = tokenizer(tmp_path, length=2)
    np.testing.assert_array_equal(found.encode_batch(["red a red", "red a"]), [[IDS["red"], IDS["Ġa"]]] * 2)
    assert found.truncated_captions == 1


def test_the_end_in_a_text_is_split_like_other_text(tmp_path):
    found = tokenizer(tmp_path, length=40)
    row = found.encode_batch([END])[0]
    assert (row != found.pad_id).sum() == len(found.split(END)) > 1
    assert found.decode(row) == END


def test_hugging_faces_files_are_the_same_vocabulary(tmp_path):
    own = tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(IDS))
    (tmp_path / "merges.txt").write_text(MERGES)
    other = GlideBpe().tokenizer(GlideBpe().files(str(tmp_path / "vocab.json")), 6)
    np.testing.assert_array_equal(*(one.encode_batch(["a red", "x y"]) for one in (own, other)))


def test_missing_files_and_pieces_are_errors(tmp_path):
    path = write(tmp_path)
    (tmp_path / "vocab.bpe").unlink()
    with pytest.raises(UserError, match=r"expected GLIDE's encoder.json with vocab.bpe next to it"):
        GlideBpe().files(path)
    few = {"vocab.json": json.dumps({"a": 0, END: 1}).encode(), "merges.txt": MERGES.encode()}
    with pytest.raises(UserError, match=r"expected every byte and merge of merges.txt, found no 'b'"):
        GlideBpe().tokenizer(few, 4).encode("b")
