"""Padded chunks of few distinct sizes, so that a function of them is compiled only a few times.

``parts`` is the number of devices that share the rows (``Layout.parts(BATCH)``); sizes are multiples of it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Int
from dalle_jax.config.errors import UserError

SIDE_BY_SIDE = 16
"""The most candidates per prompt in one call, if there are enough prompts to fill it."""


def power_of_two(count: int) -> int:
    """Return the smallest power of two >= ``count``."""
    return 1 << (count - 1).bit_length()


def multiple_of(parts: int, count: int) -> int:
    """Return the smallest multiple of ``parts`` >= ``count``."""
    return -(-count // parts) * parts


def check_batch(batch: int, parts: int) -> None:
    """Raise UserError if the devices cannot share a call of ``batch`` images."""
    if batch < 1:
        raise UserError(f"batch: expected at least 1 image per call, got {batch}")
    if batch % parts:
        raise UserError(
            f"batch: expected a multiple of {parts}, the number of devices that share the images of a call "
            f"(mesh.data times mesh.fsdp), got {batch}; the nearest are "
            f"{' and '.join(str(one) for one in (batch // parts * parts, multiple_of(parts, batch)) if one)}"
        )


def padded_chunks(rows: np.ndarray, batch: int, parts: int = 1) -> list[np.ndarray]:
    """Split rows into chunks of one size: a power of two, or ``batch`` if that is smaller.

    The last chunk is padded with copies of the last row.
    """
    size = multiple_of(parts, min(batch, power_of_two(len(rows))))
    padded = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % size, axis=0)])
    return list(padded.reshape(-1, size, *rows.shape[1:]))


def in_chunks(rows: np.ndarray, batch: int, parts: int, call: Callable[[np.ndarray], Array | np.ndarray]) -> np.ndarray:
    """Join the results of ``call`` for the padded chunks of ``rows``, without those of the padding.

    The first axis of a result is the rows of its chunk. Several arrays share chunks if ``rows`` are their indices.
    """
    return np.concatenate([np.asarray(call(chunk)) for chunk in padded_chunks(rows, batch, parts)])[: len(rows)]


def first_rows(call: Callable[[Array], Array], rows: Array, count: Int[Array | np.ndarray, ""], together: int) -> Array:
    """Apply ``call`` to the first ``count`` rows, ``together`` at a time, in a compiled loop.

    A row is computed by the same program whatever the other rows are. The results of later rows are not used, and
    ``together`` divides the number of rows.
    """
    if together == len(rows):
        return call(rows)
    parts = rows.reshape(-1, together, *rows.shape[1:])
    result = jax.eval_shape(call, parts[0])
    empty = jnp.zeros((len(parts), *result.shape), result.dtype)

    def one_part(number: Int[Array, ""], found: Array) -> Array:
        return found.at[number].set(call(parts[number]))

    found = jax.lax.fori_loop(0, -(-count // together), one_part, empty)
    return found.reshape(-1, *result.shape[1:])


def call_size(prompts: int, candidates: int, batch: int, parts: int = 1) -> tuple[int, int]:
    """Return the numbers of prompts and candidates of a call, each rounded up to a power of two at most.

    A call has at most ``batch`` images. One of the two is a multiple of ``parts``: the one that needs fewer images in
    all calls.
    """
    rows, wanted = power_of_two(prompts), power_of_two(candidates)
    if rows % parts == 0:
        return rows, min(wanted, max(1, batch // rows))
    padded = multiple_of(parts, rows)
    by_prompts = padded, min(wanted, max(1, batch // padded))
    by_candidates = rows, min(multiple_of(parts, wanted), max(parts, batch // rows // parts * parts))

    def images(size: tuple[int, int]) -> tuple[bool, int]:
        return size[0] * size[1] > batch, size[0] * -(-candidates // size[1]) * size[1]

    return min(by_candidates, by_prompts, key=images)


def prompts_together(candidates: int, batch: int, parts: int = 1) -> int:
    """Return the largest number of prompts whose candidates share calls of at most ``batch`` images."""
    side = min(candidates, SIDE_BY_SIDE)
    together = max(1, batch // side)
    if power_of_two(together) % parts == 0:
        return together
    together = max(1, batch // max(side, parts))
    return 1 << (together.bit_length() - 1)
