"""Array types, and the axis letters of shapes, einsum strings and comments.

The letters have the same meaning everywhere:

    B batch          P prompts        M candidates of one prompt
    T text length    I image tokens   L text and image tokens together   S keys
    D width          N heads          H head width                       F hidden width
    V vocabulary     K codebook       h w grid of codes                  C channels
    G key and value heads, a divisor of N

A shape of one letter has a leading space (``Float[Array, " B"]``), since lint takes "B" for a name.
"""

from typing import Final, NotRequired, TypeAlias, TypedDict

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num, PyTree, UInt, UInt8

__all__ = [
    "CANDIDATE", "COUNTED", "Array", "Bool", "ExampleBatch", "Float", "Int", "Key", "Num", "Prompts", "PyTree",
    "UInt", "UInt8",
]  # fmt: skip

Prompts: TypeAlias = Int[Array, "P T"] | Int[Array, " P"] | Float[Array, "P T c"]
"""The prompts of a transformer: token ids [P T], classes [P] or caption features [P T c].

Feature rows that are all zeros are padding.
"""

COUNTED: Final = "counted"
CANDIDATE: Final = "candidate"
"""Names of two bool arrays [B] of an evaluation batch that is padded to size B with examples of other batches.

Metrics are computed over the examples where ``COUNTED`` is True. Retrieval metrics search among the examples where
``CANDIDATE`` is True, so that each example of the batch is found once. A batch without padding has neither array.
"""


class ExampleBatch(TypedDict):
    """Raw examples of one batch before a task turns them into arrays: one list entry per example.

    ``image`` is uint8 [H W 3]. Pairs also have ``rejected`` images, to which ``image`` is preferred. Data that
    ``encode`` wrote has ``codes`` int32 [h w] instead, perhaps with a ``condition``: a class, or features [t c] of the
    caption. CLIP embeddings are an ``image_vector`` [E], a ``text_vector`` [E] of the caption, and perhaps its
    ``text_states`` [t S], all float16. Examples of the same ``caption_group`` have the same captions. ``counted`` and
    ``candidate`` are explained at ``COUNTED``.
    """

    key: list[str]
    caption: list[str]
    caption_group: list[int]
    image: NotRequired[list[np.ndarray]]
    rejected: NotRequired[list[np.ndarray]]
    codes: NotRequired[list[np.ndarray]]
    condition: NotRequired[list[np.ndarray]]
    image_vector: NotRequired[list[np.ndarray]]
    text_vector: NotRequired[list[np.ndarray]]
    text_states: NotRequired[list[np.ndarray]]
    counted: NotRequired[list[bool]]
    candidate: NotRequired[list[bool]]
