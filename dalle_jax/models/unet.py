"""The UNet of ADM (Dhariwal and Nichol 2021, arXiv 2105.05233), as the decoders of GLIDE and DALL·E 2 use it.

Residual blocks read the time, and attention puts keys and values of a context in front of its own. One network covers
GLIDE (arXiv 2112.10741), DALL·E 2's decoder and upsamplers (arXiv 2204.06125, appendix C), Karlo and the UNet of the
consistency decoder. A residual block halves or doubles the size between levels.

    B batch   H W pixels   C channels   S context length   c context width   N heads   E width of the time embedding
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Bool, Float, Int, Key, Num, PyTree
from dalle_jax.layers.attend import dense_attention
from dalle_jax.layers.conv_blocks import Conv, upsample
from dalle_jax.layers.embeddings import Embedding
from dalle_jax.layers.linear import Initializer, Linear, unstack
from dalle_jax.layers.norms import GroupNorm
from dalle_jax.layers.remat import Remat, name_attention, rematerialised
from dalle_jax.layers.stack import dropout
from dalle_jax.parallel.axes import BATCH, CHANNELS, EMBED, HEAD_DIM, HEADS, HEIGHT, MLP, POSITIONS, WIDTH
from dalle_jax.parallel.layout import constrain

EPSILON = 1e-5
MAX_PERIOD = 10_000
"""Longest period of the sinusoids of the time, over 2 pi."""

Resize = Literal["halve", "double"]


@dataclass(frozen=True)
class UNetConfig:
    """Sizes and options of the network.

    Level i has ``width * multipliers[i]`` channels, ``blocks`` residual blocks on the way down and one more on the way
    up. Levels in ``attention_levels`` have attention; with none, neither has the middle. A ``context_width`` of 0 means
    no context. ``extra_channels`` are further channels of the input: a low-resolution image, or a masked image and its
    mask. ``learned_variance`` adds as many output channels as the image has. ``scale_shift`` conditions the norms on
    the time; otherwise it is added. With ``learned_times``, a table of that many rows replaces the sinusoids.
    ``remat`` chooses the activations that a block stores (layers/remat.py).
    """

    width: int
    multipliers: tuple[int, ...]
    blocks: int
    attention_levels: tuple[int, ...] = ()
    head_size: int = 64
    context_width: int = 0
    channels: int = 3
    extra_channels: int = 0
    learned_variance: bool = True
    scale_shift: bool = True
    learned_times: int = 0
    dropout: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"

    @property
    def time_width(self) -> int:
        """The width of the time embedding, E."""
        return 4 * self.width

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        return self.channels * (2 if self.learned_variance else 1)

    @property
    def side_multiple(self) -> int:
        """The number that must divide height and width."""
        return 2 ** (len(self.multipliers) - 1)

    def build(self, rngs: nnx.Rngs) -> "UNet":
        """Create the network with newly initialised weights."""
        return UNet(self, rngs=rngs)


class UNetContext(NamedTuple):
    """Context tokens; ``mask`` is False at hidden tokens, and None shows all of them."""

    tokens: Float[Array, "B S c"]
    mask: Bool[Array, "B S"] | None = None


def timestep_embedding(time: Num[Array, " B"], width: int) -> Float[Array, "B D"]:
    """Compute cosines, then sines, of the time at geometric frequencies (arXiv 1706.03762, section 3.5)."""
    half = width // 2
    frequencies = jnp.exp(-math.log(MAX_PERIOD) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = time.astype(jnp.float32)[:, None] * frequencies  # [B D/2]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def average_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Return the mean of each 2 x 2 square."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def resized(x: Float[Array, "B H W C"], resize: Resize | None) -> Float[Array, "B h w C"]:
    """Halve or double height and width, or keep them."""
    if resize is None:
        return x
    return average_pool(x) if resize == "halve" else upsample(x)


def conv(
    inputs: int, features: int, kernel: int, dtype: DTypeLike, rngs: nnx.Rngs, init: Initializer | None = None
) -> Conv:
    """Create a convolution; the default initial values are PyTorch's: uniform, variance 1 / (3 fan-in)."""
    init = init or nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return Conv(inputs, features, kernel=kernel, dtype=dtype, init=init, rngs=rngs)


class UNetResBlock(nnx.Module):
    """A residual block with the time, which may resize after its first norm; its last convolution starts at zero."""

    def __init__(
        self, inputs: int, features: int, config: UNetConfig, resize: Resize | None = None, *, rngs: nnx.Rngs
    ):  # fmt: skip
        dtype = config.dtype
        self.resize, self.scale_shift, self.dropout = resize, config.scale_shift, config.dropout
        self.norm1 = GroupNorm(inputs, epsilon=EPSILON, dtype=dtype)
        self.conv1 = conv(inputs, features, 3, dtype, rngs)
        parts = 2 if config.scale_shift else 1
        self.time = Linear(config.time_width, parts * features, axes=(EMBED, CHANNELS), dtype=dtype, rngs=rngs)
        self.norm2 = GroupNorm(features, epsilon=EPSILON, dtype=dtype)
        self.conv2 = conv(features, features, 3, dtype, rngs, nnx.initializers.zeros)
        self.skip = None if inputs == features else conv(inputs, features, 1, dtype, rngs)

    def __call__(
        self, x: Float[Array, "B H W C"], time: Float[Array, "B E"], key: Key[Array, ""] | None
    ) -> Float[Array, "B h w F"]:
        """Apply the block to ``x``; ``time`` is the activated time embedding, and ``key`` draws the dropout."""
        y = self.conv1(resized(jax.nn.silu(self.norm1(x)), self.resize))
        x = resized(x, self.resize)
        shift = self.time(time)[:, None, None]  # [B 1 1 F] or [B 1 1 2F]
        if self.scale_shift:
            scale, shift = jnp.split(shift, 2, axis=-1)
            y = self.norm2(y) * (1 + scale) + shift
        else:
            y = self.norm2(y + shift)
        y = self.conv2(dropout(jax.nn.silu(y), self.dropout, key))
        return (x if self.skip is None else self.skip(x)) + y


class UNetAttention(nnx.Module):
    """Residual attention of all positions to the context, then to all positions; the softmax is float32."""

    def __init__(self, channels: int, config: UNetConfig, *, rngs: nnx.Rngs):
        if channels % config.head_size:
            raise ValueError(f"UNet.head_size: expected to divide {channels} channels, got {config.head_size}")
        heads, dtype = (channels // config.head_size, config.head_size), config.dtype
        axes, context = (EMBED, None, HEADS, HEAD_DIM), config.context_width
        self.norm = GroupNorm(channels, epsilon=EPSILON, dtype=dtype)
        self.qkv = Linear(channels, (3, *heads), axes=axes, dtype=dtype, rngs=rngs)
        self.context = Linear(context, (2, *heads), axes=axes, dtype=dtype, rngs=rngs) if context else None
        zeros = nnx.initializers.zeros
        self.out = Linear(heads, channels, axes=(HEADS, HEAD_DIM, EMBED), dtype=dtype, init=zeros, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"], context: UNetContext | None) -> Float[Array, "B H W C"]:
        """Apply the block, which keeps the shape."""
        batch, height, width, channels = x.shape
        q, k, v = unstack(name_attention(self.qkv(self.norm(x).reshape(batch, -1, channels))), 2)  # [B I N H]
        mask = None
        if self.context is not None and context is not None:
            context_k, context_v = unstack(name_attention(self.context(context.tokens)), 2)  # [B S N H]
            k, v = jnp.concatenate([context_k, k], axis=1), jnp.concatenate([context_v, v], axis=1)
            if context.mask is not None:
                mask = jnp.pad(context.mask, ((0, 0), (0, height * width)), constant_values=True)[:, None, None]
        out = dense_attention(q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2), mask)
        return x + self.out(name_attention(out).swapaxes(1, 2)).reshape(x.shape)


class UNetStep(nnx.Module):
    """A residual block, and attention after it if ``attends``."""

    def __init__(
        self, inputs: int, features: int, config: UNetConfig, *, attends: bool = False, resize: Resize | None = None,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self.remat = config.remat
        self.block = UNetResBlock(inputs, features, config, resize, rngs=rngs)
        self.attention = UNetAttention(features, config, rngs=rngs) if attends else None

    def __call__(
        self, x: Float[Array, "B H W C"], time: Float[Array, "B E"], context: UNetContext | None,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "B h w F"]:  # fmt: skip
        """Apply the step under the remat policy."""
        graph, state = nnx.split(self)

        def apply(state: PyTree, x: Array, time: Array, context: UNetContext | None, key: Array | None) -> Array:
            step = nnx.merge(graph, state)
            y = step.block(x, time, key)
            return y if step.attention is None else step.attention(y, context)

        x = constrain(x, BATCH, HEIGHT, WIDTH, CHANNELS)
        return rematerialised(apply, self.remat, in_loop=False)(state, x, time, context, key)


class UNet(nnx.Module):
    """The network ``(noised image, time, conditions) -> prediction``.

    ``down`` and ``up`` are the steps in order of execution: the blocks of a level, then the change of size.
    """

    def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
        _check(config)
        self.config = config
        dtype, widths = config.dtype, [config.width * one for one in config.multipliers]
        times = config.learned_times
        self.times = Embedding(times, config.width, axis=POSITIONS, rngs=rngs) if times else None
        self.time_in = Linear(config.width, config.time_width, axes=(EMBED, MLP), dtype=dtype, rngs=rngs)
        self.time_out = Linear(config.time_width, config.time_width, axes=(MLP, EMBED), dtype=dtype, rngs=rngs)
        self.input = conv(config.channels + config.extra_channels, config.width, 3, dtype, rngs)
        down, skips = _down_steps(config, widths, rngs)
        self.down = nnx.List(down)
        middle, attends = widths[-1], bool(config.attention_levels)
        self.middle = nnx.List([
            UNetStep(middle, middle, config, attends=attends, rngs=rngs), UNetStep(middle, middle, config, rngs=rngs)
        ])  # fmt: skip
        self.up = nnx.List(_up_steps(config, widths, skips, rngs))
        self.norm = GroupNorm(widths[0], epsilon=EPSILON, dtype=dtype)
        self.output = conv(widths[0], config.outputs, 3, dtype, rngs, nnx.initializers.zeros)

    def embed_time(
        self, time: Num[Array, " B"], vector: Float[Array, "B E"] | None = None
    ) -> Float[Array, "B E"]:  # fmt: skip
        """Embed the time and add ``vector``, the projection of a caption or of a CLIP embedding."""
        x = timestep_embedding(time, self.config.width) if self.times is None else self.times(time)
        x = self.time_out(jax.nn.silu(self.time_in(x)))
        return x if vector is None else x + vector.astype(x.dtype)

    def __call__(
        self, noised: Float[Array, "B H W C"], time: Int[Array, " B"] | Float[Array, " B"], *,
        vector: Float[Array, "B E"] | None = None, context: UNetContext | None = None,
        extra: Float[Array, "B H W e"] | None = None, key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B H W F"]:  # fmt: skip
        """Predict from noised images at ``time``, in float32; without ``key`` there is no dropout.

        The output holds the prediction, then with ``learned_variance`` the variance's interpolation in [-1, 1].
        """
        self._check_inputs(noised, context, extra)
        keys = _keys(key, len(self.down) + 2 + len(self.up))
        active = jax.nn.silu(self.embed_time(time, vector))
        x = self.input(noised if extra is None else jnp.concatenate([noised, extra.astype(noised.dtype)], axis=-1))
        skips = [x]
        for step in self.down:
            x = step(x, active, context, next(keys))
            skips.append(x)
        for step in self.middle:
            x = step(x, active, context, next(keys))
        for step in self.up:
            joined = x if step.block.resize else jnp.concatenate([x, skips.pop()], axis=-1)
            x = step(joined, active, context, next(keys))
        return self.output(jax.nn.silu(self.norm(x))).astype(jnp.float32)

    def with_extra_channels(self, count: int) -> "UNet":
        """Return a copy with added input channels of weight zero, so that the output stays (GLIDE, section 4.3)."""
        network, kernel = nnx.clone(self), self.input.kernel
        padded = jnp.pad(kernel[...], ((0, 0), (0, 0), (0, count), (0, 0)))
        network.input.kernel = nnx.Param(padded, **kernel.get_metadata())
        network.config = replace(self.config, extra_channels=self.config.extra_channels + count)
        return network

    def _check_inputs(self, noised: Array, context: UNetContext | None, extra: Array | None) -> None:
        config, factor = self.config, self.config.side_multiple
        if noised.shape[1] % factor or noised.shape[2] % factor:
            raise ValueError(f"noised: expected height and width as multiples of {factor}, got {noised.shape[1:3]}")
        if config.extra_channels != (0 if extra is None else extra.shape[-1]):
            got = "none" if extra is None else extra.shape[-1]
            raise ValueError(f"extra: expected {config.extra_channels} channels, got {got}")
        if (context is not None) != bool(config.context_width):
            got = "none" if context is None else "one"
            raise ValueError(f"context: expected one if context_width ({config.context_width}) is not 0, got {got}")


def _check(config: UNetConfig) -> None:
    """Raise ValueError for sizes of which no network can be built."""
    levels = len(config.multipliers)
    beyond = [level for level in config.attention_levels if not 0 <= level < levels]
    if config.width % 32 or config.width < 1 or not levels or config.blocks < 1 or beyond:
        raise ValueError(
            "UNet: expected width a multiple of 32, multipliers not empty, blocks of 1 or more and attention_levels "
            f"from 0 to {levels - 1}, got width {config.width}, multipliers {config.multipliers}, blocks "
            f"{config.blocks} and attention_levels {config.attention_levels}"
        )
    if config.context_width and not config.attention_levels:
        raise ValueError(f"UNet.context_width: expected 0 without attention_levels, got {config.context_width}")


def _down_steps(config: UNetConfig, widths: list[int], rngs: nnx.Rngs) -> tuple[list[UNetStep], list[int]]:
    """Create the steps of the way down; return them with the widths of the skip connections."""
    steps, skips, x = [], [config.width], config.width
    for level, width in enumerate(widths):
        attends = level in config.attention_levels
        for _ in range(config.blocks):
            steps.append(UNetStep(x, width, config, attends=attends, rngs=rngs))
            skips.append(x := width)
        if level < len(widths) - 1:
            steps.append(UNetStep(width, width, config, resize="halve", rngs=rngs))
            skips.append(width)
    return steps, skips


def _up_steps(config: UNetConfig, widths: list[int], skips: list[int], rngs: nnx.Rngs) -> list[UNetStep]:
    """Create the steps of the way up; each block also reads the last unread skip connection."""
    steps, skips, x = [], list(skips), widths[-1]
    for level, width in reversed(list(enumerate(widths))):
        attends = level in config.attention_levels
        for _ in range(config.blocks + 1):
            steps.append(UNetStep(x + skips.pop(), width, config, attends=attends, rngs=rngs))
            x = width
        if level:
            steps.append(UNetStep(width, width, config, resize="double", rngs=rngs))
    return steps


def _keys(key: Array | None, count: int) -> Iterator[Array | None]:
    return iter([None] * count if key is None else list(jax.random.split(key, count)))
