"""The configs of DALL·E 2's decoder and upsamplers have the published sizes, and all of them can be trained."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.bind import load
from dalle_jax.diffusion.noise_schedules import CosineNoise, LinearNoise
from dalle_jax.models.clip import TowerConfig
from dalle_jax.runs import Run, TrainRun

CONFIGS = Path(__file__).parents[2] / "configs" / "runs"
PUBLISHED = {"unclip/decoder": (3.5e9, 64), "unclip/upsampler_256": (7e8, 256), "unclip/upsampler_1024": (3e8, 1024)}
"""Parameters and the side of the images (arXiv 2204.06125, table 3)."""


def read(name: str) -> TrainRun:
    run = load(CONFIGS / f"{name}.gin", Run)
    assert isinstance(run, TrainRun)
    return run


def parameters(module: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_has_its_number_of_parameters(name):
    run, (count, side) = read(name), PUBLISHED[name]
    found = parameters(nnx.eval_shape(lambda: run.task.model.build(nnx.Rngs(0))))
    assert abs(found / count - 1) < 0.07
    size = run.task.model.image_size if name.endswith("decoder") else run.task.image_size
    assert size == side
    schedule = LinearNoise(1000) if name.endswith("1024") else CosineNoise(1000)
    assert run.task.model.diffusion.process == schedule and run.task.model.learned_variance


def test_upsamplers_train_on_crops_of_a_quarter_and_the_images_fit_one_after_the_other():
    first, second = read("unclip/upsampler_256").task, read("unclip/upsampler_1024").task
    assert (first.crop, second.crop) == (first.image_size // 4, second.image_size // 4)
    assert first.image_size == first.model.factor * read("unclip/decoder").task.model.image_size
    assert second.image_size == second.model.factor * first.image_size


SLOW = [pytest.param(name, marks=[pytest.mark.slow]) for name in ("unclip_scenes/decoder", *PUBLISHED)]


@pytest.mark.parametrize("name", ["unclip_scenes/upsampler", *SLOW])
def test_a_small_network_of_each_config_traces_its_loss_and_gradients(name):
    """Widths and the number of blocks are small; levels, attention, process, prediction and dtype are the config's."""
    task = small(read(name).task).open_for_plan()
    module = nnx.eval_shape(lambda: task.init(nnx.Rngs(0)))
    graph, state = nnx.split(module)
    spec = task.batch_spec(2)

    def loss(state, batch):
        return task.loss(nnx.merge(graph, state), {}, batch, jax.random.key(0), jnp.int32(0))[0]

    value, gradients = jax.eval_shape(jax.value_and_grad(loss), state, spec)
    assert value.shape == () and value.dtype == jnp.float32
    assert parameters(module) == sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(gradients))


def small(task):
    """Return the task with a narrow network."""
    levels = len(task.model.unet.multipliers)
    unet = dataclasses.replace(task.model.unet, width=32, blocks=1, multipliers=(1,) * levels, head_size=32)
    if task.model.unet.context_width:
        unet = dataclasses.replace(unet, context_width=8)
        tower = TowerConfig(width=8, layers=1, heads=2)
        model = dataclasses.replace(task.model, unet=unet, text=tower)
        return dataclasses.replace(task, model=model, clip=None)
    return dataclasses.replace(task, model=dataclasses.replace(task.model, unet=unet))
