"""The autoregressive prior of unCLIP: a causal transformer over codes of the image vector (arXiv 2204.06125, 2.2).

The sequence is  text states (T), text vector, dot-product token, codes (C - 1);  the output at the dot-product token
predicts code 0. The codes are quantised principal components (pca_codes.py). The token holds the bucket of z_i z_t.
Sampling draws it from the upper half of the training distribution.

B batch   P prompts   M vectors of one prompt   R = P * M rows   T text length   E embedding   C components   K buckets
D width   L = T + 2
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Int, Key, Prompts
from dalle_jax.layers import kv_cache
from dalle_jax.layers.attend import Backend
from dalle_jax.layers.attention_masks import Pattern
from dalle_jax.layers.embeddings import Embedding
from dalle_jax.layers.kv_cache import KvCache
from dalle_jax.layers.linear import Linear
from dalle_jax.layers.norms import LayerNorm
from dalle_jax.layers.remat import Remat
from dalle_jax.layers.stack import Layered, Stack, for_decoding
from dalle_jax.models.dalle import DalleBlock
from dalle_jax.models.priors.pca_codes import DotProductBuckets, PcaCodes
from dalle_jax.models.priors.prior import PriorOptions, TextCondition, VectorSample, repeat_rows
from dalle_jax.parallel.axes import BATCH, CODES, EMBED, POSITIONS, SEQ
from dalle_jax.parallel.layout import constrain
from dalle_jax.sampling.autoregressive import Settings, sample

BEFORE_CODES = 2
"""Positions between the text states and the codes: text vector, dot-product token."""


@dataclass(frozen=True)
class AutoregressivePriorConfig:
    """Sizes and options of the network.

    ``embed_width`` and ``text_width`` are CLIP's embedding width and the width of its text tower. The image vector
    becomes ``components`` codes of ``buckets`` each (319 and 1,024 in DALL·E 2). ``dot_products`` counts the buckets
    of the dot-product token, which the paper does not state. ``backend`` is the attention of training.
    """

    embed_width: int
    text_width: int
    text_length: int
    width: int
    depth: int
    heads: int
    components: int
    buckets: int = 1024
    dot_products: int = 32
    scan: bool = False
    remat: Remat = "none"
    backend: Backend = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def head_size(self) -> int:
        """The width of a head."""
        return self.width // self.heads

    @property
    def kv_heads(self) -> int:
        """The number of heads: each has its own keys and values."""
        return self.heads

    @property
    def qk_norm(self) -> bool:
        """False: queries and keys are not normalised."""
        return False

    @property
    def gated(self) -> bool:
        """False: the feed-forward networks have no gate."""
        return False

    @property
    def dropout(self) -> float:
        """The rate of dropout, 0."""
        return 0.0

    def build(self, rngs: nnx.Rngs) -> "AutoregressivePrior":
        """Create the network with newly initialised weights."""
        return AutoregressivePrior(self, rngs=rngs)


class AutoregressivePrior(nnx.Module):
    """The autoregressive prior p(codes | text, dot product) over unit vectors. Implements ``Prior``."""

    def __init__(self, config: AutoregressivePriorConfig, *, rngs: nnx.Rngs):
        if config.width % config.heads:
            raise ValueError(f"width: expected a multiple of heads ({config.heads}), got {config.width}")
        self.config = config
        width, dtype = config.width, config.dtype
        self.codes = PcaCodes(config.embed_width, config.components, config.buckets)
        self.dot_products = DotProductBuckets(config.dot_products)
        self.text_in = Linear(config.text_width, width, axes=(None, EMBED), dtype=dtype, rngs=rngs)
        self.vector_in = Linear(config.embed_width, width, axes=(None, EMBED), dtype=dtype, rngs=rngs)
        self.padding = Embedding(config.text_length, width, axis=POSITIONS, dtype=dtype, rngs=rngs)
        self.dot_product_in = Embedding(config.dot_products, width, axis=CODES, dtype=dtype, rngs=rngs)
        self.code_in = Embedding(config.buckets, width, axis=CODES, dtype=dtype, rngs=rngs)
        self.context = config.text_length + BEFORE_CODES
        length = self.context + config.components - 1
        self.positions = Embedding(length, width, axis=POSITIONS, dtype=dtype, rngs=rngs)
        pattern = Pattern("full", self.context, (1, config.components))
        self.stack = Stack(
            lambda rngs: DalleBlock(config, rngs=rngs), (pattern,) * config.depth, scan=config.scan,
            remat=config.remat, rngs=rngs,
        )  # fmt: skip
        self.norm = LayerNorm(width, dtype=dtype)
        self.head = Linear(width, config.buckets, axes=(EMBED, CODES), dtype=dtype, out_dtype=jnp.float32, rngs=rngs)

    @property
    def unit_vectors(self) -> bool:
        """True: text and image vectors have length 1."""
        return True

    def measure(self, sample: VectorSample) -> None:
        """Store principal components and buckets of a sample of the training data."""
        self.codes.measure(sample)
        self.dot_products.measure(sample)

    def prefix(self, text: TextCondition, dot_product: Int[Array, " B"]) -> Float[Array, "B L D"]:
        """Embed the positions before the codes. Padding at position t has the embedding number t of ``padding``."""
        rows = text.vector.shape[0]
        states = jnp.where(text.mask[..., None], self.text_in(text.states), self.padding.all(rows))  # [B T D]
        single = [self.vector_in(text.vector * self.config.embed_width**0.5), self.dot_product_in(dot_product)]
        tokens = jnp.concatenate([states, jnp.stack(single, axis=1)], axis=1)
        return tokens + self.positions.all(rows)[:, : self.context]

    def __call__(
        self, text: TextCondition, dot_product: Int[Array, " B"], codes: Int[Array, "B C"]
    ) -> Float[Array, "B C K"]:
        """Compute the logits of all codes by teacher forcing, in float32."""
        image = self.code_in(codes[:, :-1]) + self.positions.all(codes.shape[0])[:, self.context :]
        x = jnp.concatenate([self.prefix(text, dot_product), image], axis=1)

        def apply(block: DalleBlock, x: Array, pattern: Pattern, _: None) -> tuple[Array, None]:
            return block(x, pattern, None), None

        x = self.stack(apply, constrain(x, BATCH, SEQ, EMBED))[0][:, self.context - 1 :]
        return self.head(self.norm(x))

    def draw(
        self, text: TextCondition, empty: TextCondition, keys: Key[Array, "P M"], options: PriorOptions
    ) -> Float[Array, "P M E"]:
        """Draw M vectors for each prompt, each after its own dot-product token.

        ``options.guidance`` is guidance of logits; both sides of it see the same token. Other options are not read.
        """
        rows, half = repeat_rows(text, keys.shape[1]), self.config.dot_products // 2
        split = jax.vmap(lambda key: jax.random.split(key))(keys.reshape(-1))  # [R 2]
        token = half + jax.vmap(lambda key: jax.random.randint(key, (), 0, half))(split[:, 0])  # [R]
        count = token.shape[0]
        without = TextCondition(*(jnp.broadcast_to(leaf[:1], (count, *leaf.shape[1:])) for leaf in empty))
        decoder = PrefixDecoder(self, self.prefix(without, token))
        settings = Settings.of(count, guidance=options.guidance)
        guided = options.guidance != 1.0
        codes = sample(decoder, self.prefix(rows, token), split[:, 1:], settings, guided=guided)  # [R 1 C]
        return self.codes.decode(codes).reshape(*keys.shape, -1)


@dataclass(frozen=True)
class PrefixDecoder:
    """The cached decoder of one call, whose prompts are embedded prefixes. Implements ``CachedDecoder``.

    ``without`` holds the prefixes of the empty text.
    """

    prior: AutoregressivePrior
    without: Float[Array, "R L D"]

    @property
    def grid(self) -> tuple[int, int]:
        """The codes as a grid of one row."""
        return 1, self.prior.config.components

    @property
    def codebook_size(self) -> int:
        """The number of buckets, K."""
        return self.prior.config.buckets

    def empty(self, text: Prompts) -> Array:
        """Return the prefix of the empty text, one row for each prompt."""
        del text
        return self.without

    def prefill(self, text: Prompts, candidates: int) -> tuple[Float[Array, "R K"], Layered]:
        """Return the logits of code 0, and a cache without room for codes."""

        def apply(block: DalleBlock, x: Array, pattern: Pattern, _: None) -> tuple[Array, KvCache]:
            return block.prefill(x, candidates, pattern)

        x, caches = self.prior.stack(apply, text)
        return self.prior.head(self.prior.norm(x[:, -1])), caches

    def grow(self, cache: Layered, codes: int) -> Layered:
        """Grow a cache to the capacity for the first ``codes`` codes."""
        stack = self.prior.stack
        return stack.map(lambda pattern, layer: kv_cache.grow(layer, pattern, codes), stack.unrolled(cache))

    def for_decoding(self, rows: int) -> "PrefixDecoder":
        """Return a copy whose weights are laid out for decoding ``rows`` vectors at once."""
        return PrefixDecoder(for_decoding(self.prior, rows), self.without)

    def decode(
        self, previous: Int[Array, "R M"], position: Int[Array, ""], cache: Layered
    ) -> tuple[Float[Array, "R M K"], Layered]:
        """Return the logits of code ``position`` >= 1 given code ``position - 1``, and the new cache."""
        prior, index = self.prior, position - 1
        x = prior.code_in(previous) + prior.positions(prior.context + index)  # [R M D]

        def apply(block: DalleBlock, x: Array, pattern: Pattern, cache: KvCache) -> tuple[Array, tuple[Array, Array]]:
            return block.decode(x, cache, pattern, index)

        def write(layer: KvCache, pattern: Pattern, new: tuple[Array, Array], group: Array | None) -> KvCache:
            return kv_cache.write(layer, pattern, *new, index, group)

        x, cache = prior.stack.step(apply, write, x, cache)
        return prior.head(prior.norm(x)), cache
