"""Array types, and the axis letters of shapes, einsum strings and comments.

The letters have the same meaning everywhere:

    B batch          P prompts        M candidates of one prompt
    T text length    I image tokens   L text and image tokens together   S keys
    D width          N heads          H head width                       F hidden width
    V vocabulary     K codebook       h w grid of codes                  C channels

A shape of one letter has a leading space (``Float[Array, " B"]``), since lint takes "B" for a name.
"""

from typing import TypeAlias

from jaxtyping import Array, Bool, Float, Int, Key, Num, PyTree, UInt, UInt8

__all__ = ["Array", "Bool", "Float", "Int", "Key", "Num", "Prompts", "PyTree", "UInt", "UInt8"]

Prompts: TypeAlias = Int[Array, "P T"] | Int[Array, " P"] | Float[Array, "P T c"]
"""The prompts of a transformer: token ids, classes, or caption features, in which rows of zeros are padding."""
