"""CLIP: images and captions as unit vectors of one space (arXiv 2103.00020, section 2.4).

The image tower is a vision transformer, or the ResNet of clip_resnet.py. Both exactly as OpenAI, Hugging Face and
open_clip publish them; ``pretrained/clip.py`` has the sizes.

B batch   T text length   L patches + 1   D width of a tower   N heads   H head width   E embedding
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Bool, Float, Int
from dalle_jax.images.clip_pixels import Convention
from dalle_jax.layers.conv_blocks import space_to_depth
from dalle_jax.layers.embeddings import Embedding, EmbeddingParam, broadcast_param
from dalle_jax.layers.linear import Linear
from dalle_jax.layers.norms import LayerNorm
from dalle_jax.layers.remat import Remat, name_attention
from dalle_jax.layers.stack import Stack
from dalle_jax.models.clip_resnet import ModifiedResNet, ResNetConfig
from dalle_jax.parallel.axes import BATCH, EMBED, HEAD_DIM, HEADS, MLP, POSITIONS, SEQ, VOCAB
from dalle_jax.parallel.layout import constrain

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # RGB in [0, 1], of CLIP's own data; images are normalised by them
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
INITIAL_SCALE = 1 / 0.07  # section 2.5


@dataclass(frozen=True)
class TowerConfig:
    """One transformer of pre-norm blocks; the hidden width is 4 ``width`` where ``hidden`` is None."""

    width: int
    layers: int
    heads: int
    hidden: int | None = None


@dataclass(frozen=True)
class LastToken:
    """A text ends at its last id that is not 0, the padding; the empty one at position 0."""

    def positions(self, text: Int[Array, "B T"]) -> Int[Array, " B"]:
        """Where the tower's output is read."""
        return jnp.where(text != 0, jnp.arange(text.shape[1]), 0).max(axis=-1)


@dataclass(frozen=True)
class LargestId:
    """A text ends at its largest id, which in CLIP's vocabulary is the end's (OpenAI, open_clip)."""

    def positions(self, text: Int[Array, "B T"]) -> Int[Array, " B"]:
        """Where the tower's output is read: the first of equal ones."""
        return text.argmax(axis=-1)


@dataclass(frozen=True)
class FirstEnd:
    """A text ends at the first place of ``id``, with which it may be padded too (Hugging Face)."""

    id: int

    def positions(self, text: Int[Array, "B T"]) -> Int[Array, " B"]:
        """Where the tower's output is read: 0 where there is no end."""
        return (text == self.id).argmax(axis=-1)


EndOfText: TypeAlias = LastToken | LargestId | FirstEnd


@dataclass(frozen=True)
class ClipConfig:
    """``patch`` divides ``image_size`` (of a ResNet it is 32, by which that shrinks); texts have ``text_length`` ids.

    ``initial_bias`` is that of the logits which a sigmoid loss needs (SigLIP, arXiv 2303.15343: -10, with
    ``initial_scale`` 10); None is CLIP, which has none. ``scan`` loops over a transformer's layers with one compiled
    body, ``remat`` says what each of them keeps for the backward pass (layers/remat.py). ``crop`` is whose way
    of cutting images to its size it was shown (images/clip_pixels.py).
    """

    image_size: int
    patch: int
    vision: TowerConfig | ResNetConfig
    vocab_size: int
    text_length: int
    text: TowerConfig
    embed_width: int
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    end_of_text: EndOfText = LastToken()
    pixel_mean: tuple[float, float, float] = PIXEL_MEAN
    pixel_std: tuple[float, float, float] = PIXEL_STD
    crop: Convention = "openai"
    initial_scale: float = INITIAL_SCALE
    initial_bias: float | None = None
    scan: bool = False
    remat: Remat = "none"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def build(self, rngs: nnx.Rngs) -> "Clip":
        """Create the network with newly initialised weights."""
        return Clip(self, rngs=rngs)


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The sigmoid approximation of GELU that OpenAI's checkpoints were trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def unit(x: Float[Array, "... E"]) -> Float[Array, "... E"]:
    """Scaled to length 1, in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)


class ClipBlock(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: TowerConfig, *, activation: str, dtype: str, rngs: nnx.Rngs):
        width, heads = config.width, config.heads
        if width % heads:
            raise ValueError(f"a width of {width} does not divide into {heads} heads")
        self.activation = activation
        shape = (heads, width // heads)
        in_init, hidden_init = nnx.initializers.normal(width**-0.5), nnx.initializers.normal((2 * width) ** -0.5)
        out_init = nnx.initializers.normal(width**-0.5 * (2 * config.layers) ** -0.5)
        self.norm_attention = LayerNorm(width, dtype=dtype)
        self.qkv = Linear(width, (3, *shape), axes=(EMBED, None, HEADS, HEAD_DIM), init=in_init, dtype=dtype, rngs=rngs)
        self.out = Linear(shape, width, axes=(HEADS, HEAD_DIM, EMBED), init=out_init, dtype=dtype, rngs=rngs)
        self.norm_mlp = LayerNorm(width, dtype=dtype)
        hidden = 4 * width if config.hidden is None else config.hidden
        self.up = Linear(width, hidden, axes=(EMBED, MLP), init=hidden_init, dtype=dtype, rngs=rngs)
        self.down = Linear(hidden, width, axes=(MLP, EMBED), init=out_init, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B L D"], mask: Bool[Array, "L L"] | None) -> Float[Array, "B L D"]:
        """``mask`` is true where a query (row) may see a key (column); None lets all see all."""
        x = x + self.attend(self.norm_attention(x), mask)
        hidden = self.up(self.norm_mlp(x))  # [B L F]
        hidden = quick_gelu(hidden) if self.activation == "quick_gelu" else jax.nn.gelu(hidden, approximate=False)
        return x + self.down(hidden)

    def attend(self, x: Float[Array, "B L D"], mask: Bool[Array, "L L"] | None) -> Float[Array, "B L D"]:
        """Softmax attention; logits in float32."""
        q, k, v = jnp.moveaxis(name_attention(self.qkv(x)), 2, 0)  # [B L N H] each
        logits = jnp.einsum("BLNH,BSNH->BNLS", q * q.shape[-1] ** -0.5, k).astype(jnp.float32)
        if mask is not None:
            logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        return self.out(name_attention(jnp.einsum("BNLS,BSNH->BLNH", weights, v)))


def make_stack(tower: TowerConfig, config: ClipConfig, rngs: nnx.Rngs) -> Stack:
    """The blocks of one tower."""

    def make_block(rngs: nnx.Rngs) -> ClipBlock:
        return ClipBlock(tower, activation=config.activation, dtype=config.dtype, rngs=rngs)

    return Stack(make_block, (None,) * tower.layers, scan=config.scan, remat=config.remat, rngs=rngs)


def run_stack(stack: Stack, x: Float[Array, "B L D"], mask: Bool[Array, "L L"] | None) -> Float[Array, "B L D"]:
    """All blocks of a tower under one mask."""

    def apply(block: ClipBlock, x: Array, _: Any, __: Any) -> tuple[Array, None]:
        return block(constrain(x, BATCH, SEQ, EMBED), mask), None

    return stack(apply, x)[0]


class VisionTower(nnx.Module):
    """Patches and a class token through a transformer; the class token is projected."""

    def __init__(self, tower: TowerConfig, config: ClipConfig, *, rngs: nnx.Rngs):
        if config.image_size % config.patch:
            raise ValueError(f"images of {config.image_size} px do not divide into patches of {config.patch} px")
        width, dtype = tower.width, config.dtype
        init = nnx.initializers.normal(width**-0.5)
        self.patch = config.patch
        self.embed = Linear(config.patch**2 * 3, width, axes=(None, EMBED), bias=False, dtype=dtype, rngs=rngs)
        self.class_token = EmbeddingParam(init(rngs.params(), (width,), jnp.float32), axes=(EMBED,))
        places = (config.image_size // config.patch) ** 2 + 1
        self.positions = Embedding(places, width, axis=POSITIONS, init=init, dtype=dtype, rngs=rngs)
        self.norm_before = LayerNorm(width, dtype=dtype)
        self.stack = make_stack(tower, config, rngs)
        self.norm_after = LayerNorm(width, dtype=dtype)
        self.project = Linear(width, config.embed_width, axes=(EMBED, None), bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W 3"], *, train: bool = False) -> Float[Array, "B E"]:
        """Normalised images to embeddings of any length."""
        del train
        return self.project(self.norm_after(self.states(x)[:, 0]))

    def states(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B L D"]:
        """What the last block gives at every place, the class token's first."""
        x = space_to_depth(x, self.patch)  # [B h w patch*patch*3]
        x = self.embed(x.reshape(x.shape[0], -1, x.shape[-1]))  # [B h*w D]
        first = broadcast_param(self.class_token[...][None], x.shape[0], x.dtype)  # [B 1 D]
        x = jnp.concatenate([first, x], axis=1) + self.positions.all(x.shape[0])  # [B L D]
        return run_stack(self.stack, self.norm_before(x), None)


class TextTower(nnx.Module):
    """Ids through a causal transformer; what it gives at the end of the text is projected."""

    def __init__(self, config: ClipConfig, *, rngs: nnx.Rngs):
        width, dtype = config.text.width, config.dtype
        self.end_of_text = config.end_of_text
        self.tokens = Embedding(config.vocab_size, width, axis=VOCAB, dtype=dtype, rngs=rngs)
        init = nnx.initializers.normal(0.01)
        self.positions = Embedding(config.text_length, width, axis=POSITIONS, init=init, dtype=dtype, rngs=rngs)
        self.stack = make_stack(config.text, config, rngs)
        self.norm_after = LayerNorm(width, dtype=dtype)
        self.project = Linear(width, config.embed_width, axes=(EMBED, None), bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, text: Int[Array, "B T"]) -> Float[Array, "B E"]:
        """Padded ids to embeddings of any length."""
        end = self.end_of_text.positions(text)
        return self.project(jnp.take_along_axis(self.states(text), end[:, None, None], axis=1)[:, 0])

    def states(self, text: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """What the last norm gives at every position."""
        x = self.tokens(text) + self.positions.all(text.shape[0])  # [B T D]
        return self.norm_after(run_stack(self.stack, x, jnp.tri(text.shape[1], dtype=bool)))


def image_tower(config: ClipConfig, rngs: nnx.Rngs) -> VisionTower | ModifiedResNet:
    """The tower that a config asks for."""
    if isinstance(config.vision, TowerConfig):
        return VisionTower(config.vision, config, rngs=rngs)
    if config.patch != ModifiedResNet.shrinks:
        raise ValueError(f"patch: expected {ModifiedResNet.shrinks}, by which a ResNet shrinks, got {config.patch}")
    return ModifiedResNet(config.vision, config.image_size, config.embed_width, dtype=config.dtype, rngs=rngs)


class Clip(nnx.Module):
    """Both towers and the learned scale of the logits, with a sigmoid loss their bias too."""

    def __init__(self, config: ClipConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = image_tower(config, rngs)
        self.text = TextTower(config, rngs=rngs)
        self.log_scale = nnx.Param(jnp.array(math.log(config.initial_scale), jnp.float32), axes=())
        bias = config.initial_bias
        self.bias = None if bias is None else nnx.Param(jnp.array(bias, jnp.float32), axes=())

    def encode_image(self, pixels: Float[Array, "B H W 3"], *, train: bool = False) -> Float[Array, "B E"]:
        """Unit vectors, float32, of images with values in [0, 1]; ``train`` is for a ResNet's batch norms."""
        mean, std = jnp.array(self.config.pixel_mean), jnp.array(self.config.pixel_std)
        return unit(self.vision((pixels - mean) / std, train=train))

    def encode_text(self, text: Int[Array, "B T"]) -> Float[Array, "B E"]:
        """Unit vectors, float32, of padded captions."""
        return unit(self.text(text))

    @property
    def logit_scale(self) -> Float[Array, ""]:
        """The factor from cosines to logits. Training bounds its parameter (tasks/align_text_images.py)."""
        return jnp.exp(self.log_scale[...])
