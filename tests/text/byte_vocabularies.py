"""Small BPE vocabularies for tests."""

import json

from dalle_jax.text.byte_pairs import byte_letters

CLIP = '"bpe_simple_vocab_16e6.txt#version: 0.2\nr e\nre d</w>\nc i\nci r\nc l\ncl e</w>\ncir cle</w>\n'
MERGES = "#version: 0.2\nĠ a\nr e\nĠ re\nĠre d\nre d\n"
VOCABULARY = {
    piece: number
    for number, piece in enumerate(
        ["<s>", "<pad>", "</s>", "<unk>", *byte_letters(), "Ġa", "re", "Ġre", "Ġred", "red", "<mask>"]
    )
}


def write_bart(folder):
    """Write vocab.json and merges.txt; return the path of vocab.json."""
    (folder / "merges.txt").write_text(MERGES, encoding="utf-8")
    path = folder / "vocab.json"
    path.write_text(json.dumps(VOCABULARY), encoding="utf-8")
    return path


def write_tokenizer_json(folder, ids, merges, end, pairs=True):
    """Write a tokenizer.json in which ``end`` is an added token only, with merges as pairs or as text."""
    lines = merges.strip().split("\n")[1:]
    vocab = {piece: number for piece, number in ids.items() if piece != end}
    model = {"type": "BPE", "vocab": vocab, "merges": [one.split(" ") for one in lines] if pairs else lines}
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({"version": "1.0", "added_tokens": [{"id": ids[end], "content": end}], "model": model}))
    return path
