"""The position-wise feed-forward networks of a transformer block."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.linear import Initializer, Linear
from dalle_jax.layers.norms import LayerNorm
from dalle_jax.parallel.axes import BATCH, EMBED, MLP
from dalle_jax.parallel.layout import axis_after_batch, constrain


def constrain_hidden(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Shard hidden activations [B L F], or [P M F] of a step, over the tensor axis; leave other ranks unchanged."""
    return constrain(x, BATCH, axis_after_batch(x.shape[0]), MLP) if x.ndim == 3 else x


class Mlp(nnx.Module):
    """A feed-forward network ``W2 act(W1 x)``, or ``W2 (act(W1 x) * W0 x)`` if ``gated``, with biases.

    GELU is the tanh approximation. With "silu" and ``gated`` it is SwiGLU (Shazeer 2020, arXiv 2002.05202).
    """

    def __init__(
        self, width: int, hidden: int, *, gated: bool = False, activation: Literal["gelu", "silu"] = "gelu",
        dtype: DTypeLike = jnp.float32, init_out: Initializer | None = None, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.gated, self.activation = gated, activation
        outs, axes = ((2, hidden), (EMBED, None, MLP)) if gated else ((hidden,), (EMBED, MLP))
        self.up = Linear(width, outs, axes=axes, dtype=dtype, rngs=rngs)
        self.down = Linear(hidden, width, axes=(MLP, EMBED), dtype=dtype, init=init_out, rngs=rngs)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Apply the network to the last dimension."""
        hidden = self.up(x)  # [... F] or [... 2 F]
        act = jax.nn.silu if self.activation == "silu" else jax.nn.gelu
        hidden = act(hidden[..., 0, :]) * hidden[..., 1, :] if self.gated else act(hidden)
        return self.down(constrain_hidden(hidden))


class NormFormerGlu(nnx.Module):
    """DALL·E mini's gated network ``W2 LN(gelu(W0 LN(x)) * W1 LN(x))``, with exact GELU and no biases in the products.

    Both norms learn a bias but no scale, since a matrix follows each of them.
    """

    def __init__(self, width: int, hidden: int, *, dtype: DTypeLike, init: Initializer | None = None, rngs: nnx.Rngs):
        self.norm_in = LayerNorm(width, scale=False, dtype=dtype)
        self.up = Linear(width, (2, hidden), axes=(EMBED, None, MLP), bias=False, init=init, dtype=dtype, rngs=rngs)
        self.norm_hidden = LayerNorm(hidden, scale=False, axes=(MLP,), dtype=dtype)
        self.down = Linear(hidden, width, axes=(MLP, EMBED), bias=False, init=init, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Apply the network to the last dimension."""
        hidden = self.up(self.norm_in(x))  # [... 2 F]
        hidden = jax.nn.gelu(hidden[..., 0, :], approximate=False) * hidden[..., 1, :]  # [... F]
        return self.down(self.norm_hidden(constrain_hidden(hidden)))
