"""Patch transformer: the UNet's alternative, a transformer over patches of a noised image or of its latents.

``block="dit"`` is DiT's (Peebles and Xie 2022, arXiv 2212.09748): LayerNorm, GELU, absolute positions. ``block="jit"``
is JiT's (Li and He 2025, arXiv 2511.13720): RMSNorm, SwiGLU, normalised queries and keys, rotary positions besides. In
both, time and vector shift, scale and gate each branch, with gates that start at 0 (adaLN-Zero, arXiv 2212.09748,
section 3.2). JiT predicts x0 from large patches, which it embeds through a bottleneck. Its loss is that of the velocity
(``VelocityWeight`` in diffusion/weighting.py).

The conditions are those of DALL·E 2's decoder (arXiv 2204.06125, section 2.1): a vector is added to the time embedding,
and context tokens stand before the patches (in-context conditioning, arXiv 2212.09748, section 3.2).

    B batch   H W pixels   C channels   S context length   c context width   I patches
    D width   N heads   H head width   F hidden width   L = S + I tokens
"""

from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Bool, Float, Key, Num
from dalle_jax.layers.attend import dense_attention
from dalle_jax.layers.conv_blocks import depth_to_space, space_to_depth
from dalle_jax.layers.linear import Linear, unstack
from dalle_jax.layers.mlp import Mlp
from dalle_jax.layers.norms import LayerNorm, RmsNorm
from dalle_jax.layers.remat import Remat, name_attention
from dalle_jax.layers.rotary import grid_rotary_table, rotate
from dalle_jax.layers.stack import Stack, dropout, stack_keys
from dalle_jax.models.code_denoiser import grid_sinusoids
from dalle_jax.models.unet import UNetContext, timestep_embedding
from dalle_jax.parallel.axes import BATCH, EMBED, HEAD_DIM, HEADS, MLP, SEQ
from dalle_jax.parallel.layout import constrain

EPSILON = 1e-6
"""The epsilon of all norms, as published."""
FREQUENCIES = 256
"""Width of the time's sinusoids, as published."""


@dataclass(frozen=True)
class PatchTransformerConfig:
    """Sizes and options of the network.

    ``patch`` is the side of a patch. Patches pass through ``bottleneck`` dimensions on their way in; 0 means none.
    Context tokens join the patches before layer ``context_start``; a ``context_width`` of 0 means no context. The other
    options are as in ``UNetConfig``. The published sizes:

                width  layers  heads  patch  bottleneck  context_start
        DiT-S    384     12       6   2 4 8       0            -         4 channels, learned_variance
        DiT-B    768     12      12   2 4 8       0            -
        DiT-L   1024     24      16   2 4 8       0            -
        DiT-XL  1152     28      16   2 4 8       0            -
        JiT-B    768     12      12   16 32     128            4         3 channels
        JiT-L   1024     24      16   16 32     128            8
        JiT-H   1280     32      16   16 32     256           10
    """

    width: int
    layers: int
    heads: int
    patch: int
    block: Literal["dit", "jit"] = "jit"
    bottleneck: int = 0
    context_width: int = 0
    context_start: int = 0
    channels: int = 3
    extra_channels: int = 0
    learned_variance: bool = False
    dropout: float = 0.0
    scan: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"

    @property
    def time_width(self) -> int:
        """The width of the time embedding and of the ``vector`` that is added to it."""
        return self.width

    @property
    def hidden(self) -> int:
        """The hidden width F: 4 times the width, or two thirds of that for the gated network of JiT."""
        return 4 * self.width if self.block == "dit" else int(4 * self.width * 2 / 3)

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        return self.channels * (2 if self.learned_variance else 1)

    @property
    def side_multiple(self) -> int:
        """The number that must divide height and width."""
        return self.patch

    def build(self, rngs: nnx.Rngs) -> "PatchTransformer":
        """Create the network with newly initialised weights."""
        return PatchTransformer(self, rngs=rngs)


def token_norm(config: PatchTransformerConfig) -> LayerNorm | RmsNorm:
    """Create the norm of a branch; DiT's has no parameters."""
    if config.block == "dit":
        return LayerNorm(config.width, scale=False, bias=False, epsilon=EPSILON, dtype=config.dtype)
    return RmsNorm(config.width, epsilon=EPSILON, dtype=config.dtype)


def modulation(parts: int, config: PatchTransformerConfig, rngs: nnx.Rngs) -> Linear:
    """Create the layer from the condition to shifts, scales and gates, which start at 0."""
    shape, axes = (parts, config.width), (EMBED, None, None)
    return Linear(config.width, shape, axes=axes, init=nnx.initializers.zeros, dtype=config.dtype, rngs=rngs)


class PatchBlock(nnx.Module):
    """A transformer layer whose norms are shifted and scaled, and whose branches are gated, by the condition."""

    def __init__(self, config: PatchTransformerConfig, *, rngs: nnx.Rngs):
        jit, width, dtype, head = config.block == "jit", config.width, config.dtype, config.width // config.heads
        self.dropout = config.dropout
        self.modulation = modulation(6, config, rngs)
        self.norm_attention = token_norm(config)
        axes = (EMBED, None, HEADS, HEAD_DIM)
        self.qkv = Linear(width, (3, config.heads, head), axes=axes, dtype=dtype, rngs=rngs)
        self.norm_q, self.norm_k = (RmsNorm(head, epsilon=EPSILON, dtype=dtype) if jit else None for _ in range(2))
        self.out = Linear((config.heads, head), width, axes=(HEADS, HEAD_DIM, EMBED), dtype=dtype, rngs=rngs)
        self.norm_mlp = token_norm(config)
        self.mlp = Mlp(
            width, config.hidden, gated=jit, activation="silu" if jit else "gelu", dtype=dtype, rngs=rngs
        )  # fmt: skip

    def __call__(
        self, x: Float[Array, "B L D"], condition: Float[Array, "B D"], table: Float[Array, "L h 2"] | None,
        mask: Bool[Array, "B 1 1 L"] | None, key: Key[Array, ""] | None,
    ) -> Float[Array, "B L D"]:  # fmt: skip
        """Apply the layer; ``table`` rotates queries and keys, ``mask`` hides tokens, ``key`` draws the dropout."""
        keys = (None, None) if key is None else jax.random.split(key)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (
            one[:, None] for one in unstack(self.modulation(condition), 1)
        )  # [B 1 D] each
        attended = self.attend(self.norm_attention(x) * (1 + scale) + shift, table, mask)
        x = x + gate * dropout(attended, self.dropout, keys[0])
        y = self.mlp(self.norm_mlp(x) * (1 + scale_mlp) + shift_mlp)
        return constrain(x + gate_mlp * dropout(y, self.dropout, keys[1]), BATCH, SEQ, EMBED)

    def attend(
        self, x: Float[Array, "B L D"], table: Float[Array, "L h 2"] | None, mask: Bool[Array, "B 1 1 L"] | None
    ) -> Float[Array, "B L D"]:
        """Compute self-attention over all tokens, in both directions."""
        q, k, v = (one.swapaxes(1, 2) for one in unstack(name_attention(self.qkv(x)), 2))  # [B N L H] each
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        return self.out(name_attention(dense_attention(q, k, v, mask)).swapaxes(1, 2))


class PatchEmbedding(nnx.Module):
    """The linear map from patches to tokens, in two steps with a bottleneck (arXiv 2511.13720, section 4.2)."""

    def __init__(self, config: PatchTransformerConfig, *, rngs: nnx.Rngs):
        self.patch = config.patch
        values, middle = config.patch**2 * (config.channels + config.extra_channels), config.bottleneck
        self.down = (
            Linear(values, middle, axes=(None, MLP), bias=False, dtype=config.dtype, rngs=rngs) if middle else None
        )
        axes = (MLP if middle else None, EMBED)
        self.up = Linear(middle or values, config.width, axes=axes, dtype=config.dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """Embed the patches of an image."""
        patches = space_to_depth(x, self.patch)
        return self.up(patches if self.down is None else self.down(patches))

    def add_channels(self, count: int) -> None:
        """Add ``count`` channels of weight zero to each pixel of a patch."""
        first = self.up if self.down is None else self.down
        kernel, squares = first.kernel, self.patch**2
        by_pixel = kernel[...].reshape(squares, -1, kernel[...].shape[1])  # [p*p C D]
        padded = jnp.pad(by_pixel, ((0, 0), (0, count), (0, 0)))
        first.kernel = nnx.Param(padded.reshape(-1, padded.shape[2]), **kernel.get_metadata())


class PatchTransformer(nnx.Module):
    """The network ``(noised image, time, conditions) -> prediction``, called as ``UNet`` is."""

    def __init__(self, config: PatchTransformerConfig, *, rngs: nnx.Rngs):
        _check(config)
        self.config = config
        width, dtype = config.width, config.dtype
        self.time_in = Linear(FREQUENCIES, width, axes=(None, EMBED), dtype=dtype, rngs=rngs)
        self.time_out = Linear(width, width, axes=(EMBED, None), dtype=dtype, rngs=rngs)
        self.input = PatchEmbedding(config, rngs=rngs)
        context = config.context_width
        self.context = Linear(context, width, axes=(None, EMBED), dtype=dtype, rngs=rngs) if context else None
        start = config.context_start
        self.first, self.rest = (
            Stack(
                lambda rngs: PatchBlock(config, rngs=rngs), (None,) * count, scan=config.scan, remat=config.remat,
                rngs=rngs,
            )
            for count in (start, config.layers - start)
        )  # fmt: skip
        self.norm, self.modulation = token_norm(config), modulation(2, config, rngs)
        values, zeros = config.patch**2 * config.outputs, nnx.initializers.zeros
        self.output = Linear(
            width, values, axes=(EMBED, None), init=zeros, dtype=dtype, out_dtype="float32", rngs=rngs
        )  # fmt: skip

    def with_extra_channels(self, count: int) -> "PatchTransformer":
        """Return a copy with added input channels of weight zero, as ``UNet.with_extra_channels``."""
        network = nnx.clone(self)
        network.input.add_channels(count)
        network.config = replace(self.config, extra_channels=self.config.extra_channels + count)
        return network

    def embed_time(self, time: Num[Array, " B"], vector: Float[Array, "B D"] | None = None) -> Float[Array, "B D"]:
        """Embed the time and add ``vector``, the projection of a caption or of a CLIP embedding."""
        x = timestep_embedding(time, FREQUENCIES)
        x = self.time_out(jax.nn.silu(self.time_in(x)))
        return x if vector is None else x + vector.astype(x.dtype)

    def __call__(
        self, noised: Float[Array, "B H W C"], time: Num[Array, " B"], *, vector: Float[Array, "B D"] | None = None,
        context: UNetContext | None = None, extra: Float[Array, "B H W e"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B H W F"]:  # fmt: skip
        """Predict from noised images at ``time``, in float32; arguments and output are those of ``UNet.__call__``."""
        _check_inputs(self.config, noised, context, extra)
        condition = jax.nn.silu(self.embed_time(time, vector))
        x = self.input(noised if extra is None else jnp.concatenate([noised, extra.astype(noised.dtype)], axis=-1))
        batch, *grid, width = x.shape
        x = x.reshape(batch, -1, width)  # [B I D]
        x = x + grid_sinusoids((grid[0], grid[1]), width).astype(x.dtype)
        first, rest = (
            (None, None) if key is None else tuple(stack_keys(one, self.config.layers) for one in jax.random.split(key))
        )
        places, tokens = x.shape[1], 0 if context is None else context.tokens.shape[1]
        x = self._run(self.first, x, condition, self._table(grid, 0), None, first)
        mask = None
        if self.context is not None and context is not None:
            x = jnp.concatenate([self.context(context.tokens), x], axis=1)  # [B L D]
            if context.mask is not None:
                mask = jnp.pad(context.mask, ((0, 0), (0, places)), constant_values=True)[:, None, None]
        x = self._run(self.rest, x, condition, self._table(grid, tokens), mask, rest)[:, -places:]
        shift, scale = (one[:, None] for one in unstack(self.modulation(condition), 1))  # [B 1 D] each
        x = self.output(self.norm(x) * (1 + scale) + shift)  # [B I p*p*F]
        return depth_to_space(x.reshape(batch, *grid, -1), self.config.patch)

    def _run(
        self, stack: Stack[PatchBlock, None], x: Array, condition: Array, table: Array | None,
        mask: Array | None, keys: Array | None,
    ) -> Float[Array, "B L D"]:  # fmt: skip
        """Run tokens through a stack; ``keys`` has a key per layer, or more."""

        def apply(block: PatchBlock, x: Array, _: None, key: Array | None) -> tuple[Array, None]:
            return block(x, condition, table, mask, key), None

        return stack(apply, constrain(x, BATCH, SEQ, EMBED), None if keys is None else keys[: stack.depth])[0]

    def _table(self, grid: list[int], context: int) -> Float[Array, "L h 2"] | None:
        """Return the rotation of each token, none for context tokens; None for DiT."""
        if self.config.block == "dit":
            return None
        table = grid_rotary_table((grid[0], grid[1]), self.config.width // self.config.heads, context)
        table[:context, :, 0] = 1.0  # the identity
        return jnp.asarray(table)


def _check(config: PatchTransformerConfig) -> None:
    """Raise ValueError for sizes of which no network can be built."""
    if config.heads < 1 or config.width % (4 * config.heads) or config.patch < 1 or config.bottleneck < 0:
        raise ValueError(
            "PatchTransformer: expected width a multiple of 4 * heads, patch of 1 or more and bottleneck of 0 or more, "
            f"got width {config.width}, heads {config.heads}, patch {config.patch} and bottleneck {config.bottleneck}"
        )
    if not 0 <= config.context_start < config.layers:
        raise ValueError(
            f"PatchTransformer.context_start: expected 0 to {config.layers - 1} for {config.layers} layers, got "
            f"{config.context_start}"
        )


def _check_inputs(
    config: PatchTransformerConfig, noised: Array, context: UNetContext | None, extra: Array | None
) -> None:
    """Raise ValueError for inputs that do not fit the config."""
    if noised.shape[1] % config.patch or noised.shape[2] % config.patch:
        raise ValueError(f"noised: expected height and width as multiples of {config.patch}, got {noised.shape[1:3]}")
    if config.extra_channels != (0 if extra is None else extra.shape[-1]):
        got = "none" if extra is None else extra.shape[-1]
        raise ValueError(f"extra: expected {config.extra_channels} channels, got {got}")
    if (context is not None) != bool(config.context_width):
        got = "none" if context is None else "one"
        raise ValueError(f"context: expected one if context_width ({config.context_width}) is not 0, got {got}")
