"""Steps of any sampler as rows of a table, so that each row of a batch may be at a step of its own.

A step of ``Ddpm``, ``Ddim`` and ``DpmSolver`` is a sum:

    x' = of_x x + sum_i of_x0[i] x0_i + of_noise noise + of_new exp(log_variance / 2) z

x0_0 is this step's estimate of x0 and x0_i that of i steps before, ``noise`` the estimated noise, and z new noise. The
log variance lies between ``small`` and ``large``, where a learned variance says.

B rows   S steps   O estimates of x0
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Int, Key
from dalle_jax.diffusion.levels import Levels, NoiseLevel, per_row
from dalle_jax.diffusion.parameterization import Denoiser, Parameterization
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.ddpm import Ddpm, learned_log_variance
from dalle_jax.diffusion.samplers.dpm_solver import DpmSolver

TableSampler: TypeAlias = Ddpm | Ddim | DpmSolver


class StepTable(NamedTuple):
    """The levels and the weights of each step, with a leading axis of rows once they are stacked."""

    level: NoiseLevel
    of_x: Float[Array, " *B S"]
    of_x0: Float[Array, " *B S O"]
    of_noise: Float[Array, " *B S"]
    of_new: Float[Array, " *B S"]
    small: Float[Array, " *B S"]
    large: Float[Array, " *B S"]


class RowState(NamedTuple):
    """Rows while they are sampled. ``estimates`` are those of x0 in the last steps, newest first."""

    x: Float[Array, " B *shape"]
    estimates: Float[Array, " B O *shape"]
    keys: Key[Array, " B"]
    table: StepTable
    step: Int[Array, " B"]


def step_table(sampler: TableSampler, levels: Levels, *, order: int = 1, room: int | None = None) -> StepTable:
    """Return the table [S …] of a sampler, with weights for ``order`` estimates.

    It is filled up to ``room`` steps, so that rows of different numbers of steps share a shape.
    """
    zero, one = np.zeros(levels.steps), np.ones(levels.steps)
    of_x, of_noise, of_new, small, large = zero, zero, one, zero, zero
    if isinstance(sampler, Ddpm):
        of_x0, of_x, small, large, of_new = sampler.coefficients(levels)
        small, large = {
            "fixed_small": (small, small), "fixed_large": (large, large), "learned_range": (small, large)
        }[sampler.variance]  # fmt: skip
    elif isinstance(sampler, Ddim):
        of_x0, of_noise, of_new = sampler.coefficients(levels)
    else:
        (of_x, of_x0), of_new = sampler.coefficients(levels), zero
    estimates = np.zeros((levels.steps, order))
    given = of_x0.reshape(levels.steps, -1)
    if given.shape[1] > order:
        raise ValueError(f"order: expected at least {given.shape[1]}, that of the sampler, got {order}")
    estimates[:, : given.shape[1]] = given
    more = 0 if room is None else room - levels.steps
    if more < 0:
        raise ValueError(f"room: expected at least {levels.steps}, the steps, got {room}")

    def padded(values: np.ndarray) -> Array:
        return jnp.asarray(np.pad(values, ((0, more), *((0, 0),) * (values.ndim - 1)), mode="edge"), jnp.float32)

    level = NoiseLevel(padded(levels.times), padded(levels.alphas[:-1]), padded(levels.sigmas[:-1]))
    return StepTable(level, *map(padded, (of_x, estimates, of_noise, of_new, small, large)))


def first_rows(x: Float[Array, " B *shape"], keys: Key[Array, " B"], table: StepTable) -> RowState:
    """Return rows at their first step; all have the ``table``."""
    rows, order = x.shape[0], table.of_x0.shape[-1]
    tables = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape)), table)
    estimates = jnp.zeros((rows, order, *x.shape[1:]), jnp.float32)
    return RowState(x.astype(jnp.float32), estimates, keys, tables, jnp.zeros(rows, jnp.int32))


def advance_rows(denoise: Denoiser, rows: RowState, form: Parameterization, *, draws: bool) -> RowState:
    """Move every row by its own step. Without ``draws`` no new noise is drawn, whatever the table says."""
    count, last = rows.x.shape[0], rows.table.of_x.shape[1] - 1
    at = jnp.arange(count), jnp.minimum(rows.step, last)
    now: StepTable = jax.tree.map(lambda leaf: leaf[at], rows.table)
    output = denoise(rows.x, now.level)
    found = form.estimate(output, rows.x, now.level)
    estimates = jnp.concatenate([found.x0[:, None], rows.estimates[:, :-1]], axis=1)
    x = per_row(now.of_x, rows.x) * rows.x + per_row(now.of_noise, rows.x) * found.noise
    for number in range(estimates.shape[1]):
        x = x + per_row(now.of_x0[:, number], x) * estimates[:, number]
    if draws:
        small, large = per_row(now.small, x), per_row(now.large, x)
        log_variance = small if output.variance is None else learned_log_variance(output.variance, small, large)
        draw = jax.vmap(lambda key, step: jax.random.normal(jax.random.fold_in(key, step + 1), x.shape[1:]))
        x = x + per_row(now.of_new, x) * jnp.exp(0.5 * log_variance) * draw(rows.keys, rows.step)
    return rows._replace(x=x, estimates=estimates, step=rows.step + 1)
