"""Contexts that rows share: keys and values of X prompts, read by B rows of images.

``context`` is the index of each row's context. None says that rows are grouped: X divides B, and row b has context
b // (B / X). Grouped rows read each context once. For rows in any order there are two ways, by the number of contexts:
    few     all contexts form one, of which each row sees its own part; X times the products, each context read once
    many    each row gets a copy of its context, which is read for every row
"""

from typing import NamedTuple

import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float, Int

MOST_SHARED = 8
"""The largest number of contexts that are read as one.

Up to about 200 / W contexts the products of windows of W codes take an accelerator less time than copies would.
"""


class ArrangedContexts(NamedTuple):
    """Contexts for B rows in groups of B / Y, with the visible positions of each row; None makes all visible."""

    k: Float[Array, "Y G C H"]
    v: Float[Array, "Y G C H"]
    seen: Bool[Array, "B C"] | None


def arrange_contexts(
    k: Float[Array, "X G S H"],
    v: Float[Array, "X G S H"],
    seen: Bool[Array, "X S"] | None,
    context: Int[Array, " B"] | None,
    rows: int,
) -> ArrangedContexts:
    """Arrange the contexts of ``rows`` rows; ``seen`` marks the visible positions of each context."""
    count, heads, length, size = k.shape
    if context is None:
        return ArrangedContexts(k, v, None if seen is None else jnp.repeat(seen, rows // count, axis=0))
    if count > MOST_SHARED:
        return ArrangedContexts(k[context], v[context], None if seen is None else seen[context])
    own = jnp.broadcast_to((context[:, None] == jnp.arange(count))[..., None], (rows, count, length))
    own = own if seen is None else own & seen
    k, v = (x.swapaxes(0, 1).reshape(1, heads, count * length, size) for x in (k, v))
    return ArrangedContexts(k, v, own.reshape(rows, -1))
