"""Codes drawn one after another from a transformer with a cache.

The generator is anything with ``empty``, ``prefill``, ``grow``, ``for_decoding`` and ``decode`` as
models/code_generator.py describes them.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Int, Key, Prompts, UInt
from dalle_jax.sampling.filters import restrict

STAGE = 128
STAGES = 4
"""The cache grows in stages of at least ``STAGE`` codes, at most ``STAGES`` of them, each compiled on its own."""

MAX_NOISE_VALUES = 2**24
"""Values of noise that are drawn before the first code (64 MiB); where more are needed, each step draws its own."""


class Settings(NamedTuple):
    """How to draw, per prompt. None of these values compiles anything anew."""

    temperature: Float[Array, " P"]
    top_k: Int[Array, " P"]
    top_p: Float[Array, " P"]
    guidance: Float[Array, " P"]

    @classmethod
    def of(
        cls, prompts: int, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, guidance: float = 1.0
    ) -> "Settings":
        """The same for each prompt; temperature 0 is greedy, top_k 0 and top_p 1 and guidance 1 are off."""
        return cls(
            jnp.full(prompts, temperature, jnp.float32),
            jnp.full(prompts, top_k, jnp.int32),
            jnp.full(prompts, top_p, jnp.float32),
            jnp.full(prompts, guidance, jnp.float32),
        )


def picture_keys(seeds: Int[Array, " P"] | UInt[Array, " P"], candidates: int, first: int = 0) -> Key[Array, "P M"]:
    """A key for each picture: candidate m of a prompt has ``fold_in(key(seed), first + m)``, and nothing else in it."""
    numbers = first + jnp.arange(candidates)
    return jax.vmap(lambda seed: jax.vmap(lambda m: jax.random.fold_in(jax.random.key(seed), m))(numbers))(seeds)


def _noise(keys: Key[Array, "P M"], position: Int[Array, ""], size: int) -> Float[Array, "P M K"]:
    """Gumbel noise of one position: a picture's key folded with the position, whatever else is in the batch."""
    one = jax.vmap(jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, position), (size,))))
    return one(keys)


def draw(logits: Float[Array, "P M K"], noise: Float[Array, "P M K"], settings: Settings) -> Int[Array, "P M"]:
    """Codes distributed as the restricted logits: the largest of logit plus Gumbel noise; greedy at temperature 0."""
    noise = jnp.where((settings.temperature > 0)[:, None, None], noise, 0.0)
    return jnp.argmax(restrict(logits, settings.temperature, settings.top_k, settings.top_p) + noise, axis=-1).astype(
        jnp.int32
    )


def guide(
    conditional: Float[Array, "P M K"], unconditional: Float[Array, "P M K"], scale: Float[Array, " P"]
) -> Float[Array, "P M K"]:
    """``unconditional + scale * (conditional - unconditional)``; a scale of 1 gives the conditional logits exactly."""
    scale = scale[:, None, None]
    return jnp.where(scale == 1, conditional, unconditional + scale * (conditional - unconditional))


def _with_empty_prompt(text: Prompts, generator: Any, candidates: int) -> tuple[Array, Any]:
    """Prefill of the prompts and of the empty one, whose row, where there is one for all, is repeated for each."""
    prompts, empty = text.shape[0], generator.empty(text)
    first, cache = generator.prefill(jnp.concatenate([text, empty]), candidates)
    rows = jnp.concatenate([jnp.arange(prompts), prompts + jnp.arange(prompts) % empty.shape[0]])
    return jax.tree.map(lambda leaf: leaf[rows], (first, cache))


def _stages(generator: Any, cache: Any, length: int) -> list[int]:
    """Where stages begin, and the end: a single one where the cache is nearly as large after the first as after all."""

    def room(codes: int) -> int:
        grown = jax.eval_shape(lambda cache: generator.grow(cache, codes), cache)
        return sum(leaf.size for leaf in jax.tree.leaves(grown)) - sum(leaf.size for leaf in jax.tree.leaves(cache))

    stages = max(1, min(STAGES, length // STAGE))
    bounds = [1 + (length - 1) * stage // stages for stage in range(stages + 1)]
    return bounds if 4 * room(bounds[1] - 1) < 3 * room(length - 1) else [1, length]


def sample(
    generator: Any,
    text: Prompts,
    keys: Key[Array, "P M"],
    settings: Settings,
    prefix: Int[Array, "P I"] | None = None,
    prefix_length: Int[Array, " P"] | None = None,
    *,
    guided: bool,
) -> Int[Array, "P M I"]:
    """Codes of M pictures for each prompt; a pure function that compiles once per shape and ``guided``.

    The first ``prefix_length`` codes of each prompt are those of ``prefix``. ``guided`` False ignores the scale and
    spends nothing on the empty caption.
    """
    candidates, length = keys.shape[1], generator.grid[0] * generator.grid[1]
    prompts, size = text.shape[0], generator.codebook_size
    first, cache = _with_empty_prompt(text, generator, candidates) if guided else generator.prefill(text, candidates)
    generator = generator.for_decoding(first.shape[0] * candidates)
    noise_ahead = prompts * candidates * length * size <= MAX_NOISE_VALUES
    noises = jax.vmap(lambda i: _noise(keys, i, size))(jnp.arange(length)) if noise_ahead else None

    def choose(logits: Array, position: Array, noise: Array | None) -> Array:
        logits = guide(logits[:prompts], logits[prompts:], settings.guidance) if guided else logits
        code = draw(logits, _noise(keys, position, size) if noise is None else noise, settings)
        if prefix is None or prefix_length is None:
            return code
        given = jax.lax.dynamic_index_in_dim(prefix, position, axis=1)  # [P 1]
        return jnp.where((position < prefix_length)[:, None], given, code).astype(jnp.int32)

    def step(carry: tuple[Array, Any], scanned: tuple[Array, Array | None]) -> tuple[tuple[Array, Any], Array]:
        (previous, cache), (position, noise) = carry, scanned
        inputs = jnp.concatenate([previous, previous]) if guided else previous
        logits, cache = generator.decode(inputs, position, cache)
        code = choose(logits, position, noise)
        return (code, cache), code

    start = jnp.broadcast_to(first[:, None], (first.shape[0], candidates, size))
    code = choose(start, jnp.int32(0), None if noises is None else noises[0])
    pieces = [code[None]]
    for begin, end in itertools.pairwise(_stages(generator, cache, length)):
        scanned = jnp.arange(begin, end), None if noises is None else noises[begin:end]
        (code, cache), codes = jax.lax.scan(step, (code, generator.grow(cache, end - 1)), scanned)
        pieces.append(codes)
    return jnp.moveaxis(jnp.concatenate(pieces), 0, -1)  # [P M I]
