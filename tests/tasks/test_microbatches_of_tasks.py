"""Every task: a step in four microbatches computes the gradients and state of the whole batch, or is refused."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.diffusion_training import DiffusionTraining, ImportanceTimes
from dalle_jax.models.clip_resnet import ResNetConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.tasks.align_text_images import AlignTextImages
from dalle_jax.tasks.generate_from_conditions import ConditionalCodeGeneration, GenerateFromConditions
from dalle_jax.tasks.tokenizers import tokenize_images_dvae
from dalle_jax.tasks.tokenizers.tokenize_images_dvae import DvaeReconstruction, TokenizeImagesDvae
from dalle_jax.tasks.upsample_images import ImageUpsampling, UpsampleImages
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.task import Task
from tests.parallel.test_sharded_tasks import (
    DVAE,
    MODELS,
    SIDE,
    UNREAD,
    batch_of,
    clip_task,
    code_task,
    task_of,
    trainer_of,
)

SIGMOID = dataclasses.replace(MODELS["clip"], initial_bias=-10.0, initial_scale=10.0)
RESNET = dataclasses.replace(MODELS["clip"], image_size=32, patch=32, vision=ResNetConfig(width=2, layers=(1, 1, 1, 1)))


def llamagen() -> ConditionalCodeGeneration:
    """Return a task that blanks no conditions."""
    return ConditionalCodeGeneration(GenerateFromConditions(model=MODELS["llamagen"], blanks=0.0))


TASKS = {
    "tokenizer": functools.partial(task_of, "tokenizer"),
    "dvae": functools.partial(task_of, "dvae"),
    "clip": functools.partial(task_of, "clip"),
    "clip_sigmoid": lambda: clip_task(AlignTextImages(model=SIGMOID, captions=UNREAD, contrast="sigmoid")),
    "dalle": functools.partial(code_task, "dalle", blank_captions=0.0),
    "dalle_bart": functools.partial(code_task, "dalle_bart", blank_captions=0.0),
    "llamagen": llamagen,
    "one_step_prior": functools.partial(task_of, "one_step_prior"),
}
WHOLE = {
    "vqgan": (functools.partial(task_of, "vqgan"), "'generator', got 4: the discriminator's batch normalisation"),
    "dvae_marginal": (
        lambda: DvaeReconstruction(TokenizeImagesDvae(model=DVAE, image_size=SIDE, marginal_weight=0.5)),
        r"'bound', got 4: task\.marginal_weight = 0\.5 weights",
    ),
    "clip_resnet": (
        lambda: clip_task(AlignTextImages(model=RESNET, captions=UNREAD)),
        r"'align', got 4: the batch normalisation of task\.model\.vision = @ResNetConfig",
    ),
}


def compiled_task_of(task: Task, accumulate: int, mesh: Mesh = Mesh(1, 1, 1)) -> tuple[CompiledTask, Layout]:  # noqa: B008 (frozen)
    layout = Layout(make_mesh(mesh), Rules())
    return CompiledTask(task, trainer_of(accumulate), layout), layout


@functools.cache
def stepped(kind: str, accumulate: int, mesh: Mesh = Mesh(1, 1, 1)) -> dict[str, np.ndarray]:  # noqa: B008 (frozen)
    """Return the loss, the gradients (the first moment with beta1 = 0) and the variables that are not parameters."""
    compiled, layout = compiled_task_of(TASKS[kind](), accumulate, mesh)
    state, sums = compiled.step(compiled.state_spec.init_sharded(layout, 0), None, layout.put_batch(batch_of()))
    found = {"loss": np.asarray(sums["loss"][0] / sums["loss"][1])}
    for optimizer in state.learned.optimizers.values():
        found |= {f"gradient of {name}": np.asarray(value) for name, value in optimizer.mu.items()}
    return found | {name: np.asarray(value) for name, value in state.learned.non_params.items()}


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Compare to 1e-5 of each array's largest entry; gradients that are only rounding, to the largest of all."""
    assert found.keys() == wanted.keys()
    largest = max(np.abs(value).max() for name, value in wanted.items() if name.startswith("gradient"))
    for name, value in wanted.items():
        least = 1e-2 * largest if name.startswith("gradient") else 1e-6
        scale = max(np.abs(value).max(), least)
        np.testing.assert_allclose(found[name] / scale, value / scale, atol=1e-5, rtol=0, err_msg=name)


@pytest.mark.parametrize("kind", TASKS)
def test_four_microbatches_compute_the_gradients_and_the_state_of_the_whole_batch(kind, monkeypatch):
    """The dVAE has its noise removed, because each microbatch draws its own."""
    monkeypatch.setattr(
        tokenize_images_dvae, "gumbel_softmax", lambda logits, temperature, key: jax.nn.softmax(logits / temperature)
    )
    assert_equal(stepped(kind, 4), stepped(kind, 1))


@pytest.mark.parametrize(
    ("kind", "mesh"),
    [
        ("clip", Mesh(2, 2, 2)),
        ("tokenizer", Mesh(2, 2, 2)),
        pytest.param("clip", Mesh(8, 1, 1), marks=pytest.mark.slow),
        pytest.param("dalle", Mesh(2, 2, 2), marks=pytest.mark.slow),
    ],
)
def test_microbatches_on_eight_devices_compute_the_gradients_of_one_batch_on_one_device(kind, mesh):
    assert_equal(stepped(kind, 2, mesh), stepped(kind, 1))


@pytest.mark.slow
def test_importance_sampling_stores_the_losses_of_all_microbatches():
    config = UpsampleImages(
        model=MODELS["upsampler"], image_size=SIDE, crop=8, training=DiffusionTraining(ImportanceTimes(kept=16))
    )
    compiled, layout = compiled_task_of(ImageUpsampling(config), 4)
    state, _ = compiled.step(compiled.state_spec.init_sharded(layout, 0), None, layout.put_batch(batch_of()))
    counts, losses = (np.asarray(state.learned.non_params[name]) for name in ("counts", "losses"))
    assert counts.sum() == len(batch_of()["crops"]) and (losses.sum(axis=1) > 0).sum() == (counts > 0).sum()


@pytest.mark.parametrize("kind", WHOLE)
def test_a_loss_that_needs_the_whole_batch_is_refused_in_one_line(kind):
    task, message = WHOLE[kind]
    with pytest.raises(UserError, match=r"trainer\.accumulate: expected 1 for the objective " + message) as caught:
        compiled_task_of(task(), 4)
    assert "\n" not in str(caught.value)
    compiled_task_of(task(), 1)


def test_a_share_of_images_that_a_microbatch_would_round_is_refused():
    task = clip_task(AlignTextImages(model=MODELS["clip"], captions=UNREAD, reconstructed=0.375))  # 6 of 16, 1.5 of 4
    compiled, layout = compiled_task_of(task, 4)
    with pytest.raises(UserError, match=r"a whole number of reconstructed images .* got .* = 0\.375 times 4 images"):
        compiled.step(compiled.state_spec.init_sharded(layout, 0), None, layout.put_batch(batch_of()))


def test_a_clip_in_microbatches_needs_the_memory_of_one_microbatch():
    """The compiled step holds the activations of 256 rows at once, or of 32."""

    def temporaries(accumulate: int) -> int:
        compiled, layout = compiled_task_of(TASKS["clip"](), accumulate)
        batch = layout.put_batch(
            {name: np.tile(rows, (16, *(1,) * (rows.ndim - 1))) for name, rows in batch_of().items()}
        )
        step = compiled._step.lower(compiled.state_spec.target(), compiled._frozen, batch, compiled._key).compile()
        return step.memory_analysis().temp_size_in_bytes

    assert temporaries(8) < temporaries(1) / 3
