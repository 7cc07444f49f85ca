"""Captions as people type them to captions as tokenizers expect them."""

import unicodedata


def normalize(caption: str) -> str:
    """One line of NFC text: no control characters, no lone surrogates, single spaces, none at either end.

    Case is left alone: whether a tokenizer folds it is fixed when it is trained and travels in its model.
    """
    text = caption.encode("utf-8", errors="replace").decode("utf-8")
    text = unicodedata.normalize("NFC", text)
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text) if _odd(text) else text
    return " ".join(text.split())


def _odd(text: str) -> bool:
    return not (text.isascii() and text.isprintable())
