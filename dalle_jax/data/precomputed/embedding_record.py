"""A record of precomputed embeddings: a msgpack map with the CLIP vectors of all crops of an image and of its captions.

E embedding   S width of text states   n captions   t tokens of one caption
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgpack
import numpy as np
from jaxtyping import Float16

VERSION = 1
STORED = "<f2"
"""Little-endian float16: 11 significant bits for vectors of length 1, and for states, which a norm has scaled."""


class CaptionVectors(NamedTuple):
    """The text vector of a caption, and the text tower's states up to its end; None if states are not stored."""

    vector: Float16[np.ndarray, " E"]
    states: Float16[np.ndarray, "t S"] | None


class EmbeddingRecord(NamedTuple):
    """The image vector of one crop, with the captions of that crop and an embedding for each."""

    key: str
    image: Float16[np.ndarray, " E"]
    captions: list[str]
    texts: list[CaptionVectors]


def encode_embeddings(
    key: str,
    images: Float16[np.ndarray, "crops E"],
    captions: Sequence[Sequence[str]],
    texts: dict[str, CaptionVectors],
) -> bytes:
    """Encode the image vectors of all crops, and the captions of each crop as numbers of a list of unique captions.

    ``texts`` has the embedding of each caption.
    """
    unique = list(dict.fromkeys(caption for one in captions for caption in one))
    numbers = {caption: number for number, caption in enumerate(unique)}
    stored = [
        {"caption": caption, "vector": _bytes(texts[caption].vector)}
        | ({} if (states := texts[caption].states) is None else {"states": _bytes(states)})
        for caption in unique
    ]
    crops = [[numbers[caption] for caption in one] for one in captions]
    return msgpack.packb({"v": VERSION, "key": key, "images": _bytes(images), "crops": crops, "texts": stored})


def decode_embeddings(content: bytes, crop: int, crops: int, text_width: int) -> EmbeddingRecord:
    """Decode the embeddings and captions of crop number ``crop`` from the bytes that ``encode_embeddings`` made."""
    found = msgpack.unpackb(content)
    chosen = [found["texts"][number] for number in found["crops"][crop]]
    texts = [
        CaptionVectors(
            np.frombuffer(one["vector"], STORED),
            np.frombuffer(one["states"], STORED).reshape(-1, text_width) if "states" in one else None,
        )
        for one in chosen
    ]
    images = np.frombuffer(found["images"], STORED).reshape(crops, -1)
    return EmbeddingRecord(found["key"], images[crop], [one["caption"] for one in chosen], texts)


def _bytes(values: np.ndarray) -> bytes:
    return values.astype(STORED).tobytes()
