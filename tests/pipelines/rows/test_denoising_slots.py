"""Slots of a small diffusion of two stages, whose network is one product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.diffusion.levels import Levels, initial_noise, per_row
from dalle_jax.diffusion.parameterization import ModelOutput, Parameterization
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.row_steps import first_rows, step_table
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.request import RequestOptions
from dalle_jax.pipelines.rows.denoise_stage import DenoiseStage, SlotRow, StageProgram
from dalle_jax.pipelines.rows.denoising_slots import DenoisingSlots
from dalle_jax.pipelines.rows.slot_image import SlotImage

FIRST, SECOND, WIDTH = 4, 2, 3


def table(steps: int):
    share = np.linspace(1, 0.01, steps + 1)
    return step_table(Ddim(0.5), Levels(share[:-1], 1 - share + 0.01, share), room=FIRST)


class TwoStages:
    """A decoder of ``FIRST`` steps and an upsampler of ``SECOND``, of vectors."""

    def __init__(self, together: int) -> None:
        network = CompiledNetwork(nnx.Linear(WIDTH, WIDTH, rngs=nnx.Rngs(0)))

        def denoiser(linear, bias):
            return lambda x, level: ModelOutput(jnp.tanh(linear(x)) + bias + per_row(level.time, x))

        def show(linear, row, finished):
            return row.state.x if finished else row.state.estimates[:, 0]

        stage = DenoiseStage(denoiser, Parameterization("x0"), True, show)
        self.stages = [StageProgram(network, stage, together) for _ in range(2)]

    def lengths(self, steps):
        return [FIRST if steps is None else steps, SECOND]

    def hold(self, prompt):
        return jnp.full((1, WIDTH), float(len(prompt)))

    def begin(self, held, image, steps):
        key = image.key()
        return SlotRow(first_rows(initial_noise(key, (WIDTH,)), key, table(self.lengths(steps)[0])), held)

    def enter(self, stage, row, image):
        return SlotRow(first_rows(row.state.x + 1, image.key(), table(SECOND)), row.condition)


@pytest.fixture(scope="module", params=[1, 2], ids=["rows one by one", "rows by two"])
def model(request):
    return TwoStages(request.param)


def image(context: int, seed: int, candidate: int = 0, number: int | None = None) -> SlotImage:
    return SlotImage(context, seed, candidate, RequestOptions(candidates=1), number=number)


def finish(slots: DenoisingSlots) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    while len(found) < len(WANTED):
        done = slots.advance(1)
        found |= dict(zip(done, map(np.asarray, slots.collect(done)), strict=True)) if done else {}
    return found


WANTED = (("ab", 1, None), ("ab", 2, 2), ("c", 1, None))


def test_an_image_is_the_same_to_the_last_bit_whatever_joins_and_leaves(model):
    alone = []
    for prompt, seed, steps in WANTED:
        slots = DenoisingSlots(model, 4)
        (slot,) = slots.insert([image(slots.hold(prompt, steps), seed)])
        while not (done := slots.advance(3)):
            pass
        assert done == [slot] and slots.position(slot) == slots.length(steps)
        alone.append(np.asarray(slots.collect(done)[0]))
    slots, found = DenoisingSlots(model, 4), {}
    for number, (prompt, seed, steps) in enumerate(WANTED):  # each comes a step after the one before it
        (slot,) = slots.insert([image(slots.hold(prompt, steps), seed)])
        assert slot == number
        assert not slots.advance(1)
    found = finish(slots)
    for number, one in enumerate(alone):
        np.testing.assert_array_equal(found[number], one)
    assert (alone[0] != alone[1]).any() and (alone[0] != alone[2]).any()


def test_a_full_engine_takes_the_first_images_and_a_cancelled_one_leaves_its_slot(model):
    slots = DenoisingSlots(model, 2)
    context = slots.hold("ab", None)
    assert slots.insert([image(context, seed) for seed in range(3)]) == [0, 1]
    slots.advance(1)
    slots.cancel([0])
    assert slots.insert([image(context, 5)]) == [0]
    assert [slots.position(slot) for slot in range(2)] == [0, 1]


def test_an_image_is_seen_as_its_last_step_predicts_it_in_either_stage(model):
    slots = DenoisingSlots(model, 2)
    slots.insert([image(slots.hold("ab", None), 1), image(slots.hold("ab", 2), 1)])
    slots.advance(3)  # one is in its first stage, the other in its second
    first, second = slots.so_far([0, 1])
    assert np.abs(np.asarray(first) - np.asarray(second)).max() > 0.01
    assert jnp.isfinite(first).all() and slots.started().shape == (1,)


def test_a_window_has_a_key_of_its_own():
    keys = [jax.random.key_data(image(0, 1, 2, number).key()) for number in (None, 0, 1)]
    assert len({tuple(np.asarray(one).ravel().tolist()) for one in keys}) == 3
