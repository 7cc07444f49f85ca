"""Rows at steps of their own against the samplers' own loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.diffusion.levels import NoiseLevel, initial_noise, per_row
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.parameterization import ClipX0, ModelOutput, Parameterization
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.ddpm import Ddpm
from dalle_jax.diffusion.samplers.dpm_solver import DpmSolver
from dalle_jax.diffusion.samplers.row_steps import RowState, advance_rows, first_rows, step_table
from dalle_jax.diffusion.samplers.sampler import KeyedNoise
from dalle_jax.diffusion.spacing import RoundedSteps

FORM = Parameterization("noise", ClipX0(1.0))
LEVELS = {steps: DiscreteProcess.of(CosineNoise()).respaced(RoundedSteps(steps)).levels for steps in (3, 5)}
KEYS, ORDER, ROOM = jax.random.split(jax.random.key(0), 3), 3, 6
SAMPLERS = (
    Ddpm("fixed_small"), Ddpm("fixed_large"), Ddpm("learned_range"), Ddim(), Ddim(0.7), DpmSolver(2), DpmSolver(3),
)  # fmt: skip


def denoise(x: jax.Array, level: NoiseLevel) -> ModelOutput:
    """Return a prediction and a variance that depend on the row's own time."""
    bend = jnp.sin(3 * x) + per_row(level.time, x) / 1000
    return ModelOutput(0.5 * bend, 0.3 * jnp.cos(x))


@jax.jit
def moved(rows: RowState) -> RowState:
    return advance_rows(denoise, rows, FORM, draws=True)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_rows_of_a_table_take_the_steps_of_their_sampler(sampler):
    start = initial_noise(KEYS, (2, 2, 1))
    wanted = sampler.sample(denoise, LEVELS[5], start, KeyedNoise(KEYS), FORM)
    rows = first_rows(start, KEYS, step_table(sampler, LEVELS[5], order=ORDER, room=ROOM))
    for _ in range(5):
        rows = moved(rows)
    np.testing.assert_allclose(rows.x, wanted, atol=2e-6)


def test_rows_of_different_samplers_steps_and_numbers_of_steps_share_a_call():
    tables = [
        step_table(Ddim(), LEVELS[5], order=ORDER, room=ROOM),
        step_table(DpmSolver(2), LEVELS[3], order=ORDER, room=ROOM),
        step_table(Ddpm("learned_range"), LEVELS[5], order=ORDER, room=ROOM),
    ]
    alone = [
        first_rows(initial_noise(KEYS[n : n + 1], (2, 2, 1)), KEYS[n : n + 1], one) for n, one in enumerate(tables)
    ]
    alone[2] = moved(alone[2])  # it came earlier
    together = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *alone)
    for _ in range(3):
        together, alone = moved(together), [moved(one) for one in alone]
    np.testing.assert_array_equal(together.step, [3, 3, 4])
    for row, one in enumerate(alone):
        np.testing.assert_allclose(together.x[row], one.x[0], atol=1e-6)


def test_a_table_without_room_for_its_steps_is_an_error():
    with pytest.raises(ValueError, match="room: expected at least 5, the steps, got 4"):
        step_table(Ddim(), LEVELS[5], room=4)
    with pytest.raises(ValueError, match="order: expected at least 2, that of the sampler, got 1"):
        step_table(DpmSolver(2), LEVELS[5])
