"""Code denoiser: a transformer that predicts codes from their noised vectors, a caption and a CLIP image embedding.

This is diffusion on embeddings of codes, as in CDCD (Dieleman et al. 2022, arXiv 2211.15089) and Plaid (Gulrajani and
Hashimoto 2023, arXiv 2305.18619). DALL·E 2's decoder (arXiv 2204.06125, section 2.1) denoises pixels with a UNet. The
inputs are DALL·E 2's: the embedding is added to the time embedding and gives four tokens beside those of the caption.
The transformer is modulated by time and embedding (adaLN, DiT, arXiv 2212.09748, section 3.2), with normalised queries
and keys (arXiv 2302.05442, section 2.1).

    B batch   T text length   E embedding   I places of the grid   c code width   K codebook
    D width   N heads   H head width   F hidden width   L = 4 + T + I tokens
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Bool, Float, Int
from dalle_jax.layers.attend import dense_attention
from dalle_jax.layers.code_tokens import CodeFeatures
from dalle_jax.layers.embeddings import Embedding, EmbeddingParam
from dalle_jax.layers.linear import Linear, project, unstack
from dalle_jax.layers.mlp import Mlp
from dalle_jax.layers.norms import LayerNorm, RmsNorm
from dalle_jax.layers.remat import Remat, name_attention
from dalle_jax.layers.stack import Stack
from dalle_jax.parallel.axes import BATCH, CODES, EMBED, HEAD_DIM, HEADS, POSITIONS, SEQ, VOCAB
from dalle_jax.parallel.layout import constrain

CLIP_TOKENS = 4
"""Tokens made of the CLIP embedding (arXiv 2204.06125, section 2.1)."""
FREQUENCIES = 64
"""Frequencies of the sinusoidal time embedding."""


@dataclass(frozen=True)
class CodeDenoiserConfig:
    """Sizes of the network.

    ``embed_width`` is the width of the CLIP's embedding, ``code_width`` that of the image tokenizer's code vectors.
    ``width`` must be a multiple of 4 and of ``heads``.
    """

    text_vocab: int
    text_length: int
    embed_width: int
    codebook_size: int
    code_width: int
    grid: tuple[int, int]
    width: int
    layers: int
    heads: int
    hidden_multiple: int = 4
    scan: bool = False
    remat: Remat = "none"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def build(self, rngs: nnx.Rngs) -> "CodeDenoiser":
        """Create the network with newly initialised weights."""
        return CodeDenoiser(self, rngs=rngs)


class Guide(NamedTuple):
    """The inputs that an image is generated from.

    ``text`` holds token ids; a row of padding (0) is the empty caption. ``clip`` holds unit vectors; it is read only
    where ``has_clip`` is True.
    """

    text: Int[Array, "B T"]
    clip: Float[Array, "B E"]
    has_clip: Bool[Array, " B"]

    def without(self, text: Bool[Array, " B"], clip: Bool[Array, " B"]) -> "Guide":
        """Drop the caption, or the embedding, of the rows where ``text``, or ``clip``, is True."""
        return Guide(jnp.where(text[:, None], 0, self.text), self.clip, self.has_clip & ~clip)

    def nothing(self) -> "Guide":
        """Drop captions and embeddings of all rows: the unconditional input of classifier-free guidance."""
        every = jnp.ones(self.text.shape[0], bool)
        return self.without(every, every)


def sinusoids(x: Float[Array, "..."], frequencies: Float[np.ndarray, " f"]) -> Float[Array, "... 2*f"]:
    """Return cosines, then sines, of ``x`` times each frequency."""
    angles = x[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def grid_sinusoids(grid: tuple[int, int], width: int) -> Float[Array, "I D"]:
    """Return fixed position embeddings: half of the width for the row, half for the column (MAE, arXiv 2111.06377)."""
    frequencies = 10_000.0 ** -(np.arange(width // 4) / (width // 4))
    rows, columns = jnp.meshgrid(*(jnp.arange(size, dtype=jnp.float32) for size in grid), indexing="ij")
    both = [sinusoids(axis.reshape(-1), frequencies) for axis in (rows, columns)]  # [I D/2] each
    return jnp.concatenate(both, axis=-1)


def with_neighbours(x: Float[Array, "B I c"], grid: tuple[int, int]) -> Float[Array, "B I 9*c"]:
    """Concatenate the vectors of the 3x3 places around each place; places beyond the border are zero."""
    height, width = grid
    padded = jnp.pad(x.reshape(x.shape[0], height, width, -1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    around = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(around, axis=-1).reshape(x.shape[0], height * width, -1)


class DenoiserBlock(nnx.Module):
    """A transformer layer whose norms are shifted and scaled, and whose branches are gated, by the condition.

    Gates start at 1 and modulations at 0, so that a new network is a plain pre-norm transformer.
    """

    def __init__(self, config: CodeDenoiserConfig, *, rngs: nnx.Rngs):
        width, dtype, head = config.width, config.dtype, config.width // config.heads
        zeros = nnx.initializers.zeros
        branch = nnx.initializers.normal(width**-0.5 * (2 * config.layers) ** -0.5)
        self.modulation = Linear(width, (6, width), axes=(EMBED, None, None), init=zeros, dtype=dtype, rngs=rngs)
        self.norm_attention = LayerNorm(width, scale=False, bias=False, dtype=dtype)
        self.qkv = Linear(
            width, (3, config.heads, head), axes=(EMBED, None, HEADS, HEAD_DIM), bias=False, dtype=dtype, rngs=rngs
        )
        self.norm_q, self.norm_k = RmsNorm(head, dtype=dtype), RmsNorm(head, dtype=dtype)
        self.out = Linear(
            (config.heads, head), width, axes=(HEADS, HEAD_DIM, EMBED), init=branch, dtype=dtype, rngs=rngs
        )
        self.norm_mlp = LayerNorm(width, scale=False, bias=False, dtype=dtype)
        self.mlp = Mlp(width, config.hidden_multiple * width, init_out=branch, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B L D"], condition: Float[Array, "B D"]) -> Float[Array, "B L D"]:
        """Apply the layer."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (
            one[:, None] for one in unstack(self.modulation(condition), 1)
        )  # [B 1 D] each
        x = x + (1 + gate) * self.attend(self.norm_attention(x) * (1 + scale) + shift)
        x = x + (1 + gate_mlp) * self.mlp(self.norm_mlp(x) * (1 + scale_mlp) + shift_mlp)
        return constrain(x, BATCH, SEQ, EMBED)

    def attend(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Compute self-attention over all tokens, in both directions."""
        q, k, v = (one.swapaxes(1, 2) for one in unstack(name_attention(self.qkv(x)), 2))  # [B N L H] each
        out = dense_attention(self.norm_q(q), self.norm_k(k), v)
        return self.out(name_attention(out).swapaxes(1, 2))


class CodeDenoiser(nnx.Module):
    """The network from noised code vectors to logits of the codes.

    Its logits do not see how near the input of a place is to each code vector: the likelihood of a place's own input
    is known in closed form and is added to them (diffusion/code_vectors.py).
    """

    def __init__(self, config: CodeDenoiserConfig, *, rngs: nnx.Rngs):
        if config.width % config.heads or config.width % 4:
            raise ValueError(f"width: expected a multiple of 4 and of heads ({config.heads}), got {config.width}")
        self.config = config
        width, dtype = config.width, config.dtype
        self.tokens = Embedding(config.text_vocab, width, axis=VOCAB, dtype=dtype, rngs=rngs)
        self.positions = Embedding(config.text_length, width, axis=POSITIONS, dtype=dtype, rngs=rngs)
        no_clip = nnx.initializers.normal(1.0)(rngs.params(), (config.embed_width,), jnp.float32)
        self.no_clip = EmbeddingParam(no_clip, axes=(None,))
        self.clip_tokens = Linear(
            config.embed_width, (CLIP_TOKENS, width), axes=(None, None, EMBED), dtype=dtype, rngs=rngs
        )
        self.clip_condition = Linear(config.embed_width, width, axes=(None, EMBED), dtype=dtype, rngs=rngs)
        self.time_in = Linear(2 * FREQUENCIES, width, axes=(None, EMBED), dtype=dtype, rngs=rngs)
        self.time_out = Linear(width, width, axes=(EMBED, None), dtype=dtype, rngs=rngs)
        self.inputs = Linear(9 * config.code_width, width, axes=(None, EMBED), dtype=dtype, rngs=rngs)
        self.stack: Stack[DenoiserBlock, None] = Stack(
            lambda rngs: DenoiserBlock(config, rngs=rngs), (None,) * config.layers, scan=config.scan,
            remat=config.remat, rngs=rngs,
        )  # fmt: skip
        self.norm = LayerNorm(width, dtype=dtype)
        self.features = CodeFeatures(config.codebook_size, config.code_width, width, rngs=rngs)
        self.head = Linear(
            width, config.codebook_size, axes=(EMBED, CODES), init=nnx.initializers.zeros, dtype=dtype, rngs=rngs
        )

    @property
    def code_vectors(self) -> Float[Array, "K c"]:
        """The vectors of the codes, with mean 0 in each dimension and variance 1 over all values."""
        return self.features.vectors[...]

    def set_code_vectors(self, vectors: Float[Array, "K c"]) -> None:
        """Store the image tokenizer's code vectors, standardised."""
        self.features.vectors[...] = (vectors - vectors.mean(axis=0)) / vectors.std()

    def __call__(self, x: Float[Array, "B I c"], time: Float[Array, " B"], guide: Guide) -> Float[Array, "B I K"]:
        """Return float32 logits of the codes; ``time`` is the share of the signal, from 0 (noise) to 1 (codes)."""
        clip = jnp.where(guide.has_clip[:, None], guide.clip * math.sqrt(guide.clip.shape[-1]), self.no_clip[...])
        condition = jax.nn.silu(self.time_features(time) + self.clip_condition(clip))  # [B D]
        image = self.inputs(with_neighbours(x, self.config.grid))  # [B I D]
        image = image + grid_sinusoids(self.config.grid, self.config.width).astype(image.dtype)
        text = self.tokens(guide.text) + self.positions.all(x.shape[0])  # [B T D]
        stream = jnp.concatenate([self.clip_tokens(clip), text, image], axis=1)  # [B L D]

        def apply(block: DenoiserBlock, x: Array, _: None, __: None) -> tuple[Array, None]:
            return block(x, condition), None

        out = self.stack(apply, constrain(stream, BATCH, SEQ, EMBED))[0][:, -x.shape[1] :]  # [B I D]
        return self.logits(self.norm(out))

    def time_features(self, time: Float[Array, " B"]) -> Float[Array, "B D"]:
        """Embed times by sinusoids of 1 to 1000 radians, and an MLP."""
        frequencies = 1000.0 ** (np.arange(FREQUENCIES) / (FREQUENCIES - 1))
        return self.time_out(jax.nn.silu(self.time_in(sinusoids(time, frequencies))))

    def logits(self, x: Float[Array, "B I D"]) -> Float[Array, "B I K"]:
        """Compare outputs with a table of codes and with features of the code vectors (layers/code_tokens.py)."""
        kernel = self.head.kernel[...] + self.features().T * x.shape[-1] ** -0.5  # [D K]
        bias = 0.0 if self.head.bias is None else self.head.bias[...]
        return project(x, kernel, 1, "float32") + bias
