"""Autoregressive sampling of image codes from a transformer with a key-value cache."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple, Protocol, Unpack, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Bool, Float, Int, Key, Prompts, PyTree, UInt
from dalle_jax.parallel.axes import BATCH, CANDIDATES
from dalle_jax.parallel.layout import batch_parts, constrain
from dalle_jax.sampling.filters import first_largest, restrict
from dalle_jax.sampling.options import SamplingKeywords, SamplingOptions

STAGE = 64
STAGES = 4
"""Largest number of stages in which the cache grows.

A stage has at least ``STAGE`` codes and a compiled loop of its own.
"""

MAX_NOISE_VALUES = 2**24
"""Largest number of noise values that are drawn before the first step (64 MiB).

If more are needed, each step draws its own noise.
"""


@runtime_checkable
class CachedDecoder(Protocol):
    """A transformer p(codes | prompt) in raster order. Its methods take and return the key-value cache as a value."""

    @property
    def grid(self) -> tuple[int, int]:
        """The grid of codes (h, w), with I = h * w."""
        ...

    @property
    def codebook_size(self) -> int:
        """The number of codes, K."""
        ...

    def empty(self, text: Prompts) -> Array:
        """Return the empty prompt of classifier-free guidance: one row for all prompts, or one row for each."""
        ...

    def prefill(self, text: Prompts, candidates: int) -> tuple[Float[Array, "P K"], PyTree]:
        """Return the logits of code 0 and a cache, both computed once per prompt and shared by its candidates.

        The first axis of every array in the cache is P. The cache has no room for codes until ``grow`` is called.
        """
        ...

    def grow(self, cache: PyTree, codes: int) -> PyTree:
        """Grow a cache to the capacity for the first ``codes`` codes. Small caches are faster to read."""
        ...

    def for_decoding(self, rows: int) -> "CachedDecoder":
        """Return the decoder, or a copy whose weights are laid out for decoding ``rows`` images at once."""
        ...

    def decode(
        self, previous: Int[Array, "P M"], position: Int[Array, ""], cache: PyTree
    ) -> tuple[Float[Array, "P M K"], PyTree]:
        """Return the logits of code ``position`` (1 to I - 1) given code ``position - 1``, and the new cache."""
        ...


class Settings(NamedTuple):
    """Sampling settings per prompt, as traced values, so that new values need no compilation.

    ``guidance_change`` is the guidance scale of the last code less that of the first.
    """

    temperature: Float[Array, " P"]
    top_k: Int[Array, " P"]
    top_p: Float[Array, " P"]
    guidance: Float[Array, " P"]
    guidance_change: Float[Array, " P"]

    @classmethod
    def stack(cls, options: Sequence[SamplingOptions]) -> "Settings":
        """Stack the options of each prompt."""
        return cls(*map(jnp.asarray, columns(options)))

    @classmethod
    def of(cls, prompts: int, **options: Unpack[SamplingKeywords]) -> "Settings":
        """Create equal settings for all prompts, from the fields of ``SamplingOptions``."""
        return cls.stack([SamplingOptions(**options)] * prompts)

    def guidance_at(self, position: Int[Array, "#P W"], codes: int) -> Float[Array, "P W"]:
        """Return the guidance scales at positions among ``codes`` codes; they are linear in the position."""
        return self.guidance[:, None] + self.guidance_change[:, None] * (position / max(codes - 1, 1))


def columns(options: Sequence[SamplingOptions]) -> list[np.ndarray]:
    """Return the fields of ``Settings`` on the host."""
    return [
        np.array([one.temperature for one in options], np.float32),
        np.array([one.top_k for one in options], np.int32),
        np.array([one.top_p for one in options], np.float32),
        np.array([one.guidance for one in options], np.float32),
        np.array([one.last_guidance - one.guidance for one in options], np.float32),
    ]


class GivenCodes(NamedTuple):
    """Codes of images that are given in part; ``codes`` is read only where ``keep`` is True."""

    codes: Int[Array, "P M I"]
    keep: Bool[Array, "P I"]


class NegativePrompts(NamedTuple):
    """Prompts that take the place of the empty prompt in guidance; ``rows`` is read only where ``given`` is True."""

    rows: Prompts
    given: Bool[Array, " P"]

    def instead_of(self, empty: Array) -> Array:
        """Replace the empty prompt of each row that has a negative prompt."""
        given = self.given.reshape(-1, *(1,) * (self.rows.ndim - 1))
        return jnp.where(given, self.rows, empty).astype(self.rows.dtype)


def image_keys(
    seeds: Int[Array, " P"] | UInt[Array, " P"], candidates: int, first: int | Int[Array, " P"] = 0
) -> Key[Array, "P M"]:
    """Create a key for each image: ``fold_in(key(seed), first + m)`` for candidate m.

    It does not depend on the other prompts of the batch. ``first`` is one number, or one for each prompt.
    """

    def keys_of(seed: Array, first: Array) -> Array:
        return jax.vmap(lambda m: jax.random.fold_in(jax.random.key(seed), first + m))(jnp.arange(candidates))

    return jax.vmap(keys_of)(seeds, jnp.broadcast_to(jnp.asarray(first), seeds.shape))


def _noise(keys: Key[Array, "P M"], position: Int[Array, ""], size: int) -> Float[Array, "P M K"]:
    """Draw the Gumbel noise of one position, from each image's key folded with the position."""
    draw_one = jax.vmap(jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, position), (size,))))
    return draw_one(keys)


def draw(logits: Float[Array, "P M K"], noise: Float[Array, "P M K"], settings: Settings) -> Int[Array, "P M"]:
    """Sample codes from the filtered logits by the Gumbel-max trick; temperature 0 takes the largest logit.

    Where devices do not share the rows, they become one dimension: a TPU has tiles of 8 rows, and of [P 1 K] it fills
    one row of each, in every pass of a filter.
    """
    shape, (temperature, k, p) = logits.shape, settings[:3]
    if batch_parts() == 1:
        temperature, k, p = (jnp.repeat(x, shape[1]) for x in (temperature, k, p))  # [P*M]
        logits, noise = (x.reshape(-1, shape[2]) for x in (logits, noise))
    else:
        temperature, k, p = (x[:, None] for x in (temperature, k, p))
    noise = jnp.where((temperature > 0)[..., None], noise, 0.0)
    return first_largest(restrict(logits, temperature, k, p) + noise).reshape(shape[:-1])


def guide(
    conditional: Float[Array, "P M K"], unconditional: Float[Array, "P M K"], scale: Float[Array, "P W"]
) -> Float[Array, "P M K"]:
    """Compute classifier-free guidance of logits (Ho and Salimans 2022, arXiv 2207.12598, equation 6, scale = 1 + w).

    The result is ``unconditional + scale * (conditional - unconditional)``, which dalle-mini calls super conditioning.
    A scale of 1 gives the conditional logits exactly. W is M, or 1 for one scale per prompt.
    """
    scale = scale[..., None]
    return jnp.where(scale == 1, conditional, unconditional + scale * (conditional - unconditional))


def _with_empty(conditional: Array, unconditional: Array) -> Array:
    """Join rows of prompts and rows of their empty or negative prompts.

    If devices share the rows, both rows of a prompt are neighbours, so that guidance moves nothing between devices.
    """
    if batch_parts() == 1:
        return jnp.concatenate([conditional, unconditional])
    return jnp.stack([conditional, unconditional], axis=1).reshape(2 * len(conditional), *conditional.shape[1:])


def _without_empty(rows: Array) -> tuple[Array, Array]:
    """Invert ``_with_empty``."""
    if batch_parts() == 1:
        return rows[: len(rows) // 2], rows[len(rows) // 2 :]
    pairs = rows.reshape(rows.shape[0] // 2, 2, *rows.shape[1:])  # a cache may be empty, so no -1
    return pairs[:, 0], pairs[:, 1]


def prefill_guided(
    text: Prompts, negative: NegativePrompts | None, generator: CachedDecoder, candidates: int
) -> tuple[Array, PyTree]:
    """Prefill the prompts, and after them the empty or negative prompt of each.

    If all prompts share one empty prompt, its result is repeated for each of them.
    """
    prompts, empty = text.shape[0], _empty(text, negative, generator)
    first, cache = generator.prefill(jnp.concatenate([text, empty]), candidates)
    rows = jnp.concatenate([jnp.arange(prompts), prompts + jnp.arange(prompts) % empty.shape[0]])
    return jax.tree.map(lambda leaf: leaf[rows], (first, cache))


def _empty(text: Prompts, negative: NegativePrompts | None, generator: CachedDecoder) -> Array:
    """Return the empty prompt, one row for all or for each, with the negative prompts in its place."""
    empty = generator.empty(text)
    return empty if negative is None else negative.instead_of(empty)


def _prefill_joined(
    text: Prompts, negative: NegativePrompts | None, generator: CachedDecoder, candidates: int
) -> tuple[Array, PyTree]:
    """Prefill the prompts and the empty or negative prompts, joined by ``_with_empty``.

    Where devices share the rows, each computes the empty prompt for its own prompts.
    """
    if batch_parts() == 1:
        return prefill_guided(text, negative, generator, candidates)
    empty = jnp.broadcast_to(_empty(text, negative, generator), text.shape)
    return generator.prefill(_with_empty(text, empty), candidates)


def stages(generator: CachedDecoder, cache: PyTree, length: int) -> list[int]:
    """Return the positions at which the stages of the cache begin, followed by ``length``.

    There is a single stage if the first stage already needs three quarters of the final capacity.
    """

    def capacity(codes: int) -> int:
        grown = jax.eval_shape(lambda cache: generator.grow(cache, codes), cache)
        return sum(leaf.size for leaf in jax.tree.leaves(grown)) - sum(leaf.size for leaf in jax.tree.leaves(cache))

    count = max(1, min(STAGES, length // STAGE))
    bounds = [1 + (length - 1) * stage // count for stage in range(count + 1)]
    return bounds if 4 * capacity(bounds[1] - 1) < 3 * capacity(length - 1) else [1, length]


def sample(
    generator: CachedDecoder,
    text: Prompts,
    keys: Key[Array, "P M"],
    settings: Settings,
    given: GivenCodes | None = None,
    negative: NegativePrompts | None = None,
    *,
    guided: bool,
) -> Int[Array, "P M I"]:
    """Sample the codes of M images per prompt; a pure function that compiles once per shape and ``guided``.

    ``given`` codes are kept and the others are sampled, in raster order: a sampled code depends on the given codes
    before it, not on those after it. If ``guided`` is False, the guidance scale is ignored, and neither the empty nor
    the ``negative`` prompts are computed.
    """
    keys = constrain(keys, BATCH, CANDIDATES)
    (prompts, candidates), length = keys.shape, generator.grid[0] * generator.grid[1]
    size = generator.codebook_size
    if guided:
        first, cache = _prefill_joined(text, negative, generator, candidates)
    else:
        first, cache = generator.prefill(text, candidates)
    generator = generator.for_decoding(first.shape[0] * candidates)
    noise_ahead = prompts * candidates * length * size <= MAX_NOISE_VALUES
    noises = jax.vmap(lambda i: _noise(keys, i, size))(jnp.arange(length)) if noise_ahead else None

    def choose(logits: Array, position: Array, noise: Array | None) -> Array:
        """Return the codes [P M] at a position, drawn from logits [P M K], or those given there."""
        if guided:
            logits = guide(*_without_empty(logits), settings.guidance_at(position[None, None], length))
        logits = constrain(logits, BATCH, CANDIDATES, None)  # of all codes, for sampling
        code = draw(logits, _noise(keys, position, size) if noise is None else noise, settings)
        if given is None:
            return code
        own = jax.lax.dynamic_index_in_dim(given.codes, position, axis=2, keepdims=False)  # [P M]
        keep = jax.lax.dynamic_index_in_dim(given.keep, position, axis=1)  # [P 1]
        return jnp.where(keep, own, code).astype(jnp.int32)

    def step(carry: tuple[Array, PyTree], scanned: tuple[Array, Array | None]) -> tuple[tuple[Array, PyTree], Array]:
        (previous, cache), (position, noise) = carry, scanned
        inputs = constrain(_with_empty(previous, previous) if guided else previous, BATCH, CANDIDATES)
        logits, cache = generator.decode(inputs, position, cache)
        code = choose(logits, position, noise)
        return (code, cache), code

    start = jnp.broadcast_to(first[:, None], (first.shape[0], candidates, size))
    code = choose(start, jnp.int32(0), None if noises is None else noises[0])
    parts = [code[None]]
    for begin, end in itertools.pairwise(stages(generator, cache, length)):
        scanned = jnp.arange(begin, end), None if noises is None else noises[begin:end]
        (code, cache), codes = jax.lax.scan(step, (code, generator.grow(cache, end - 1)), scanned)
        parts.append(codes)
    return constrain(jnp.moveaxis(jnp.concatenate(parts), 0, -1), BATCH, CANDIDATES, None)  # [P M I]
