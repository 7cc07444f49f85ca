"""A record of precomputed codes: a msgpack map with the codes and captions of all crops of an image."""

from collections.abc import Sequence
from typing import NamedTuple

import msgpack
import numpy as np
from jaxtyping import Int, Int32

VERSION = 1


class CodeRecord(NamedTuple):
    """The codes of one crop of an image, int32 [h w], with the captions of that crop."""

    key: str
    codes: Int32[np.ndarray, "h w"]
    captions: list[str]


def encode_codes(key: str, codes: Int[np.ndarray, "crops h w"], captions: Sequence[Sequence[str]]) -> bytes:
    """Encode the codes and the captions of all crops of an image.

    Codes are little-endian numbers of 2 or 4 bytes.

    Captions that are equal for all crops are stored once.
    """
    same = all(list(one) == list(captions[0]) for one in captions)
    stored = [list(one) for one in (captions[:1] if same else captions)]
    width = 2 if codes.max(initial=0) < 2**16 else 4
    content = codes.astype(f"<u{width}").tobytes()
    return msgpack.packb({"v": VERSION, "key": key, "width": width, "codes": content, "captions": stored})


def decode_codes(content: bytes, crop: int, crops: int, grid: tuple[int, int]) -> CodeRecord:
    """Decode the codes and captions of crop number ``crop`` from the bytes that ``encode_codes`` made."""
    found = msgpack.unpackb(content)
    codes = np.frombuffer(found["codes"], f"<u{found['width']}").reshape(crops, *grid)
    captions = found["captions"][crop if len(found["captions"]) > 1 else 0]
    return CodeRecord(found["key"], codes[crop].astype(np.int32), captions)
