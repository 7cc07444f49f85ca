"""Array types and the alphabet of axis letters.

Letters used in shapes, einsum strings and comments, everywhere the same:

    B batch          P prompts        M candidates of one prompt
    T text length    I image tokens   L text and image tokens together   S keys
    D width          N heads          H head width                       F hidden width
    V vocabulary     K codebook       h w grid of codes                  C channels

A shape of one letter is written with a space before it (``Float[Array, " B"]``): lint takes "B" for a name.
"""

from typing import TypeAlias

from jaxtyping import Array, Bool, Float, Int, Key, Num, UInt, UInt8

__all__ = ["CANDIDATE", "COUNTED", "Array", "Bool", "Float", "Int", "Key", "Num", "Prompts", "UInt", "UInt8"]

Prompts: TypeAlias = Int[Array, "P T"] | Int[Array, " P"] | Float[Array, "P T c"]
"""What a transformer is asked for: token ids, classes, or features of captions, whose rows of zeros are padding."""

COUNTED, CANDIDATE = "counted", "candidate"
"""Names of two bool rows of an evaluation batch that was filled up to its size with examples of other batches.

Figures are over the rows that are counted. Retrieval is among the candidates: each example of the batch once. A batch
that needed no filling has neither.
"""
