"""CLIP: encoders of images and texts into one space of unit vectors (arXiv 2103.00020, section 2.4).

The image tower is a vision transformer, or the ResNet of clip_resnet.py. Both match the published code of OpenAI,
Hugging Face and open_clip. The published sizes are in ``pretrained/publishers/clip_presets.py``.

B batch   T text length   L patches + 1   D width of a tower   N heads   H head width   E embedding
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Bool, Float, Int, Num
from dalle_jax.images.clip_pixels import Convention
from dalle_jax.layers.attend import dense_attention_blnh
from dalle_jax.layers.conv_blocks import space_to_depth
from dalle_jax.layers.embeddings import Embedding, EmbeddingParam, broadcast_param
from dalle_jax.layers.linear import Linear
from dalle_jax.layers.norms import LayerNorm
from dalle_jax.layers.remat import Remat, name_attention
from dalle_jax.layers.stack import Stack
from dalle_jax.models.clip_resnet import ModifiedResNet, ResNetConfig
from dalle_jax.parallel.axes import BATCH, EMBED, HEAD_DIM, HEADS, MLP, POSITIONS, SEQ, VOCAB
from dalle_jax.parallel.layout import constrain

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of RGB in [0, 1] over CLIP's training data
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
INITIAL_SCALE = 1 / 0.07  # section 2.5


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of a transformer of pre-norm blocks. If ``hidden`` is None, the hidden width is 4 ``width``."""

    width: int
    layers: int
    heads: int
    hidden: int | None = None


@dataclass(frozen=True)
class LastToken:
    """Rule that a text ends at its last id that is not padding (0). An empty text ends at position 0."""

    def positions(self, text: Int[Array, "B T"]) -> Int[Array, " B"]:
        """Return the position of the last id other than 0 of each text."""
        return jnp.where(text != 0, jnp.arange(text.shape[1]), 0).max(axis=-1)


@dataclass(frozen=True)
class LargestId:
    """Rule that a text ends at its largest id, which is the end token of CLIP's vocabulary (OpenAI, open_clip)."""

    def positions(self, text: Int[Array, "B T"]) -> Int[Array, " B"]:
        """Return the first position of the largest id of each text."""
        return text.argmax(axis=-1)


@dataclass(frozen=True)
class FirstEnd:
    """Rule that a text ends at the first ``id``, which may be the id of padding too (Hugging Face)."""

    id: int

    def positions(self, text: Int[Array, "B T"]) -> Int[Array, " B"]:
        """Return the first position of ``id`` in each text, 0 for a text without it."""
        return (text == self.id).argmax(axis=-1)


EndOfText: TypeAlias = LastToken | LargestId | FirstEnd


@dataclass(frozen=True)
class ClipConfig:
    """Sizes and options of the network.

    ``patch`` must divide ``image_size``; a ResNet needs ``patch`` 32, its downsampling factor. ``text_length`` is the
    number of token ids per text. ``crop`` is the convention by which images are resized and cropped
    (images/clip_pixels.py). ``initial_bias`` is the bias of the logits that a sigmoid loss needs (SigLIP, arXiv
    2303.15343: -10, with ``initial_scale`` 10); CLIP has None. With ``timesteps``, a noised CLIP (GLIDE, arXiv
    2112.10741, section 4.4), the class token gets a learned vector for each timestep of the noise. ``scan`` compiles
    one layer of a transformer and loops over all; ``remat`` chooses the activations that a layer stores
    (layers/remat.py).
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
    timesteps: int = 0
    scan: bool = False
    remat: Remat = "none"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def build(self, rngs: nnx.Rngs) -> "Clip":
        """Create the network with newly initialised weights."""
        return Clip(self, rngs=rngs)


@dataclass(frozen=True)
class ClipTextConfig:
    """Sizes and options of a text tower alone, as unCLIP systems publish it; the fields are those of ``ClipConfig``."""

    vocab_size: int
    text_length: int
    text: TowerConfig
    embed_width: int
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    end_of_text: EndOfText = LastToken()
    scan: bool = False
    remat: Remat = "none"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def build(self, rngs: nnx.Rngs) -> "ClipText":
        """Create the network with newly initialised weights."""
        return ClipText(self, rngs=rngs)


@dataclass(frozen=True)
class ClipImageConfig:
    """Sizes and options of a vision transformer alone, as unCLIP systems publish it; fields as in ``ClipConfig``."""

    image_size: int
    patch: int
    vision: TowerConfig
    embed_width: int
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    pixel_mean: tuple[float, float, float] = PIXEL_MEAN
    pixel_std: tuple[float, float, float] = PIXEL_STD
    crop: Convention = "openai"
    scan: bool = False
    remat: Remat = "none"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def build(self, rngs: nnx.Rngs) -> "ClipImage":
        """Create the network with newly initialised weights."""
        return ClipImage(self, rngs=rngs)


class TextFeatures(NamedTuple):
    """The text tower's outputs: states at all positions after the last norm, the embedding, and a mask of the text."""

    states: Float[Array, "B T D"]
    vector: Float[Array, "B E"]
    mask: Bool[Array, "B T"]


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Compute the sigmoid approximation of GELU that OpenAI's checkpoints were trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def unit(x: Float[Array, "... E"]) -> Float[Array, "... E"]:
    """L2-normalise vectors, in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)


class ClipBlock(nnx.Module):
    """A transformer layer: ``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, config: TowerConfig, *, activation: str, dtype: str, rngs: nnx.Rngs):
        width, heads = config.width, config.heads
        if width % heads:
            raise ValueError(f"width: expected a multiple of heads ({heads}), got {width}")
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

    def __call__(self, x: Float[Array, "B L D"], mask: Bool[Array, "... L L"] | None) -> Float[Array, "B L D"]:
        """Apply the layer. ``mask`` is True if a query (row) attends to a key (column); None masks nothing.

        A mask that differs between the examples has the shape [B 1 L L].
        """
        x = x + self.attend(self.norm_attention(x), mask)
        hidden = self.up(self.norm_mlp(x))  # [B L F]
        hidden = quick_gelu(hidden) if self.activation == "quick_gelu" else jax.nn.gelu(hidden, approximate=False)
        return x + self.down(hidden)

    def attend(self, x: Float[Array, "B L D"], mask: Bool[Array, "... L L"] | None) -> Float[Array, "B L D"]:
        """Compute softmax attention; the queries are scaled before the product, as published."""
        q, k, v = jnp.moveaxis(name_attention(self.qkv(x)), 2, 0)  # [B L N H] each
        mask = None if mask is None else mask.reshape(-1, 1, *mask.shape[-2:])  # [B 1 L L] or [1 1 L L]
        out = dense_attention_blnh(q * q.shape[-1] ** -0.5, k, v, mask, scale=1.0)
        return self.out(name_attention(out))


def make_stack(tower: TowerConfig, config: ClipConfig | ClipTextConfig | ClipImageConfig, rngs: nnx.Rngs) -> Stack:
    """Create the blocks of one tower."""

    def make_block(rngs: nnx.Rngs) -> ClipBlock:
        return ClipBlock(tower, activation=config.activation, dtype=config.dtype, rngs=rngs)

    return Stack(make_block, (None,) * tower.layers, scan=config.scan, remat=config.remat, rngs=rngs)


def run_stack(stack: Stack, x: Float[Array, "B L D"], mask: Bool[Array, "... L L"] | None) -> Float[Array, "B L D"]:
    """Apply all blocks of a tower with the same mask."""

    def apply(block: ClipBlock, x: Array, _: None, __: None) -> tuple[Array, None]:
        return block(constrain(x, BATCH, SEQ, EMBED), mask), None

    return stack(apply, x)[0]


class VisionTower(nnx.Module):
    """The vision transformer over patches and a class token, whose output is projected to the embedding."""

    def __init__(self, tower: TowerConfig, config: ClipConfig | ClipImageConfig, *, rngs: nnx.Rngs):
        if config.image_size % config.patch:
            raise ValueError(
                f"image_size: expected a multiple of patch ({config.patch} px), got {config.image_size} px"
            )
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
        steps = config.timesteps if isinstance(config, ClipConfig) else 0
        self.times = Embedding(steps, width, axis=POSITIONS, init=init, dtype=dtype, rngs=rngs) if steps else None

    def __call__(
        self, x: Float[Array, "B H W 3"], *, time: Num[Array, " B"] | None = None, train: bool = False
    ) -> Float[Array, "B E"]:
        """Compute embeddings, not L2-normalised, of images with normalised channels; ``time`` is as in ``states``."""
        del train
        return self.project(self.norm_after(self.states(x, time)[:, 0]))

    def states(self, x: Float[Array, "B H W 3"], time: Num[Array, " B"] | None = None) -> Float[Array, "B L D"]:
        """Return the last block's output at all positions; position 0 is the class token.

        ``time`` is the timestep of each image's noise, for a tower that has timesteps; None is timestep 0.
        """
        x = space_to_depth(x, self.patch)  # [B h w patch*patch*3]
        x = self.embed(x.reshape(x.shape[0], -1, x.shape[-1]))  # [B h*w D]
        first = broadcast_param(self.class_token[...][None], x.shape[0], x.dtype)  # [B 1 D]
        if self.times is not None:
            index = jnp.zeros(x.shape[0], jnp.int32) if time is None else time.astype(jnp.int32)
            first = first + self.times(index)[:, None]
        x = jnp.concatenate([first, x], axis=1) + self.positions.all(x.shape[0])  # [B L D]
        return run_stack(self.stack, self.norm_before(x), None)


class TextTower(nnx.Module):
    """The causal text transformer, whose output at the end of the text is projected to the embedding."""

    def __init__(self, config: ClipConfig | ClipTextConfig, *, rngs: nnx.Rngs):
        width, dtype = config.text.width, config.dtype
        self.end_of_text = config.end_of_text
        self.tokens = Embedding(config.vocab_size, width, axis=VOCAB, dtype=dtype, rngs=rngs)
        init = nnx.initializers.normal(0.01)
        self.positions = Embedding(config.text_length, width, axis=POSITIONS, init=init, dtype=dtype, rngs=rngs)
        self.stack = make_stack(config.text, config, rngs)
        self.norm_after = LayerNorm(width, dtype=dtype)
        self.project = Linear(width, config.embed_width, axes=(EMBED, None), bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, text: Int[Array, "B T"]) -> Float[Array, "B E"]:
        """Compute embeddings, not L2-normalised, of padded token ids."""
        return self.features(text).vector

    def features(self, text: Int[Array, "B T"]) -> TextFeatures:
        """Compute the states at all positions and the embedding, not L2-normalised, in one pass."""
        end, states = self.end_of_text.positions(text), self.states(text)
        vector = self.project(jnp.take_along_axis(states, end[:, None, None], axis=1)[:, 0])
        return TextFeatures(states, vector, jnp.arange(text.shape[1]) <= end[:, None])

    def states(self, text: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Return the output of the last norm at all positions."""
        x = self.tokens(text) + self.positions.all(text.shape[0])  # [B T D]
        return self.norm_after(run_stack(self.stack, x, jnp.tri(text.shape[1], dtype=bool)))


class ClipText(nnx.Module):
    """A CLIP's text tower alone."""

    def __init__(self, config: ClipTextConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.text = TextTower(config, rngs=rngs)

    def encode_text(self, text: Int[Array, "B T"]) -> Float[Array, "B E"]:
        """Embed padded token ids as unit vectors in float32."""
        return unit(self.text(text))


class ClipImage(nnx.Module):
    """A CLIP's vision transformer alone, whose vectors are not L2-normalised, as Karlo's decoder reads them."""

    def __init__(self, config: ClipImageConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = VisionTower(config.vision, config, rngs=rngs)

    def encode_image(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B E"]:
        """Embed images with values in [0, 1], in float32."""
        mean, std = jnp.array(self.config.pixel_mean), jnp.array(self.config.pixel_std)
        return self.vision((pixels - mean) / std).astype(jnp.float32)


def image_tower(config: ClipConfig, rngs: nnx.Rngs) -> VisionTower | ModifiedResNet:
    """Create the image tower of a config."""
    if isinstance(config.vision, TowerConfig):
        return VisionTower(config.vision, config, rngs=rngs)
    if config.timesteps:
        raise ValueError(f"timesteps: expected 0 for a ResNet, got {config.timesteps}")
    if config.patch != ModifiedResNet.shrinks:
        raise ValueError(
            f"patch: expected {ModifiedResNet.shrinks}, the downsampling factor of a ResNet, got {config.patch}"
        )
    return ModifiedResNet(config.vision, config.image_size, config.embed_width, dtype=config.dtype, rngs=rngs)


class Clip(nnx.Module):
    """The image tower, the text tower, the learned scale of the logits, and their bias for a sigmoid loss."""

    def __init__(self, config: ClipConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = image_tower(config, rngs)
        self.text = TextTower(config, rngs=rngs)
        self.log_scale = nnx.Param(jnp.array(math.log(config.initial_scale), jnp.float32), axes=())
        bias = config.initial_bias
        self.bias = None if bias is None else nnx.Param(jnp.array(bias, jnp.float32), axes=())

    def encode_image(self, pixels: Float[Array, "B H W 3"], *, train: bool = False) -> Float[Array, "B E"]:
        """Embed images with values in [0, 1] as unit vectors in float32.

        With ``train``, the batch norms of a ResNet use the statistics of the batch.
        """
        mean, std = jnp.array(self.config.pixel_mean), jnp.array(self.config.pixel_std)
        return unit(self.vision((pixels - mean) / std, train=train))

    def encode_noised(self, x: Float[Array, "B H W 3"], time: Num[Array, " B"]) -> Float[Array, "B E"]:
        """Embed noised images, alpha x0 + sigma noise with x0 from -1 to 1, at timesteps; for a noised CLIP."""
        if not isinstance(self.vision, VisionTower) or self.vision.times is None:
            raise ValueError("timesteps: expected a CLIP that was trained on noised images, got timesteps = 0")
        mean, std = jnp.array(self.config.pixel_mean), jnp.array(self.config.pixel_std)
        return unit(self.vision(((x + 1) / 2 - mean) / std, time=time))

    def encode_text(self, text: Int[Array, "B T"]) -> Float[Array, "B E"]:
        """Embed padded token ids as unit vectors in float32."""
        return unit(self.text(text))

    @property
    def logit_scale(self) -> Float[Array, ""]:
        """The factor from cosine similarities to logits. Training bounds its parameter (tasks/align_text_images.py)."""
        return jnp.exp(self.log_scale[...])
