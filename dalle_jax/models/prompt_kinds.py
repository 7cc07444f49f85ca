"""The kinds of prompts that a transformer can be conditioned on."""

from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class TokenIds:
    """The token ids of a text, padded to ``length``."""

    length: int

    def spec(self, count: int) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of the ids [P T] of ``count`` texts."""
        return jax.ShapeDtypeStruct((count, self.length), jnp.int32)


@dataclass(frozen=True)
class ByClass:
    """A class from 0 to ``classes`` - 1. The number ``classes`` itself is the empty prompt."""

    classes: int

    def spec(self, count: int) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of ``count`` classes [P]."""
        return jax.ShapeDtypeStruct((count,), jnp.int32)


@dataclass(frozen=True)
class ByCaption:
    """The features of a caption by a text encoder: ``length`` vectors of ``width``."""

    length: int
    width: int

    def spec(self, count: int) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of the features [P T c] of ``count`` captions."""
        return jax.ShapeDtypeStruct((count, self.length, self.width), jnp.float32)


PromptKind: TypeAlias = TokenIds | ByClass | ByCaption
