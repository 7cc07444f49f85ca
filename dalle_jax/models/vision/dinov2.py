"""DINOv2's vision transformer (Oquab et al. 2023, arXiv 2304.07193), with registers if it has them (arXiv 2309.16588).

Learned positions of the grid of training are resized to the grid of ``image_size``. The published weights are imported
and never trained here. The network is whole on every device.

B batch   H W pixels   L class token, registers and patches   D width   N heads   C head width
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Float
from dalle_jax.images.cubic_weights import antialiased_cubic_weights, cubic_weights
from dalle_jax.layers.attend import dense_attention_blnh
from dalle_jax.layers.conv_blocks import space_to_depth
from dalle_jax.layers.linear import Linear
from dalle_jax.layers.norms import LayerNorm
from dalle_jax.parallel.layout import by_rows

EPSILON = 1e-6
OFFSET = 0.1
"""DINOv2 resizes positions as if the new grid had 0.1 rows more."""
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
"""Mean and standard deviation of ImageNet's channels, for values in 0..1."""

PositionResize: TypeAlias = Literal["offset", "plain", "antialiased"]
"""Cubic resizing of positions: with ``OFFSET`` (DINOv2), without it (Hugging Face), antialiased (with registers)."""


@dataclass(frozen=True)
class Dinov2Config:
    """Sizes of a network for images of ``image_size``. It was trained on ``grid`` x ``grid`` patches."""

    width: int
    layers: int
    heads: int
    grid: int = 37
    patch: int = 14
    registers: int = 0
    image_size: int = 224
    position_resize: PositionResize = "offset"

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ValueError(f"image_size: expected a multiple of patch ({self.patch} px), got {self.image_size} px")

    def build(self, rngs: nnx.Rngs) -> "Dinov2":
        """Create the network with newly initialised weights."""
        return Dinov2(self, rngs=rngs)


def position_weights(config: Dinov2Config) -> Float[np.ndarray, "h g"]:
    """Return the matrix that resizes positions along one axis from the grid of training."""
    before, after = config.grid, config.image_size // config.patch
    if before == after:
        return np.eye(before)
    if config.position_resize == "antialiased":
        return antialiased_cubic_weights(before, after)
    offset = OFFSET if config.position_resize == "offset" else 0.0
    return cubic_weights(before, after, before / (after + offset))


class Dinov2Block(nnx.Module):
    """A pre-norm transformer block. The output of each half is scaled by channel before it is added."""

    def __init__(self, config: Dinov2Config, *, rngs: nnx.Rngs):
        width, shape = config.width, (config.heads, config.width // config.heads)
        self.norm_attention = LayerNorm(width, epsilon=EPSILON, axes=(None,))
        self.qkv = Linear(width, (3, *shape), axes=(None,) * 4, rngs=rngs)
        self.out = Linear(shape, width, axes=(None,) * 3, rngs=rngs)
        self.scale_attention = nnx.Param(jnp.ones(width), axes=(None,))
        self.norm_mlp = LayerNorm(width, epsilon=EPSILON, axes=(None,))
        self.up = Linear(width, 4 * width, axes=(None, None), rngs=rngs)
        self.down = Linear(4 * width, width, axes=(None, None), rngs=rngs)
        self.scale_mlp = nnx.Param(jnp.ones(width), axes=(None,))

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Apply attention, then the MLP with the exact GELU."""
        qkv = self.qkv(self.norm_attention(x))  # [B L 3 N C]
        attended = dense_attention_blnh(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        x = x + self.out(attended) * self.scale_attention[...]
        hidden = jax.nn.gelu(self.up(self.norm_mlp(x)), approximate=False)
        return by_rows(x + self.down(hidden) * self.scale_mlp[...])


class Dinov2(nnx.Module):
    """The vision transformer, whose features are the normalised class token."""

    def __init__(self, config: Dinov2Config, *, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        init = nnx.initializers.normal(0.02)

        def table(rows: int) -> nnx.Param:
            return nnx.Param(init(rngs.params(), (rows, width), jnp.float32), axes=(None, None))

        self.embed = Linear(config.patch**2 * 3, width, axes=(None, None), rngs=rngs)
        self.class_token, self.positions = table(1), table(config.grid**2 + 1)
        self.registers = table(config.registers) if config.registers else None
        self.blocks = nnx.List(Dinov2Block(config, rngs=rngs) for _ in range(config.layers))
        self.norm = LayerNorm(width, epsilon=EPSILON, axes=(None,))

    def features(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B D"]:
        """Return the class token of images with values in 0..255 and sides of ``image_size``."""
        x = space_to_depth((pixels / 255 - MEAN) / STD, self.config.patch)  # [B h w patch*patch*3]
        x = self.embed(x.reshape(x.shape[0], -1, x.shape[-1])) + self._patch_positions()
        first = [self.class_token[...] + self.positions[...][:1]]
        if self.registers is not None:
            first.append(self.registers[...])
        tokens = jnp.concatenate(first)[None]  # [1 1+registers D]
        x = jnp.concatenate([jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape[1:])), x], axis=1)  # [B L D]
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])

    def _patch_positions(self) -> Float[Array, "I D"]:
        weights = jnp.asarray(position_weights(self.config), jnp.float32)
        grid = self.positions[...][1:].reshape(self.config.grid, self.config.grid, -1)
        exact = jax.lax.Precision.HIGHEST
        return jnp.einsum("hi,wj,ijd->hwd", weights, weights, grid, precision=exact).reshape(-1, grid.shape[-1])
