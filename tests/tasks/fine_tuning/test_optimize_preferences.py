"""Preference optimisation with a transformer of four codes and a tokenizer of its own."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.losses.cross_entropy import cross_entropy
from dalle_jax.losses.preferences import preference_loss
from dalle_jax.models.code_generator import prepare_for_sampling
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.fine_tuning.optimize_preferences import OptimizePreferences, PreferenceOptimization
from dalle_jax.tasks.generate_codes import CodeGeneration, GenerateCodes
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.optim.optimizers import AdamW
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.trainer import Trainer
from tests.tasks.reinforcement.test_reinforce import MODEL, TEXT, TOKENIZER, dalle, logits_of

KEY, STEP = jax.random.key(0), jnp.int32(0)
CONFIG = OptimizePreferences(
    generate=GenerateCodes(model=MODEL, captions=Captions(file="unread"), image_tokenizer="unread", image_size=8),
    reference="unread",
    beta=0.5,
    preferred_weight=0.2,
)  # fmt: skip


def task_of(**changes) -> PreferenceOptimization:
    """Return a task whose reference is a transformer of another seed."""
    config = replace(CONFIG, **changes)
    reference = dalle(1)
    prepare_for_sampling(reference)
    return PreferenceOptimization(CodeGeneration(config.generate, None, TOKENIZER), reference, config)


def pairs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 4, 8, 8, 3), np.uint8)
    return {"text": TEXT, "pixels": images[0], "rejected": images[1]}


@functools.cache
def compiled_loss():
    """Return the loss as a function of the module and the frozen networks."""
    batch = jax.tree.map(jnp.asarray, pairs())
    return nnx.jit(lambda module, frozen: task_of().loss(module, frozen, batch, KEY, STEP))


def log_likelihoods(images: np.ndarray) -> np.ndarray:
    """Return the log-likelihood of each image under the trained and under the frozen transformer."""
    pixels = jnp.asarray(images / 255.0, jnp.float32)
    codes = nnx.jit(lambda tokenizer, pixels: tokenizer.encode(pixels))(TOKENIZER, pixels).reshape(len(images), -1)
    return np.stack([-cross_entropy(jnp.asarray(logits_of(seed, TEXT, codes)), codes).sum(-1) for seed in (0, 1)])


def test_the_loss_is_that_of_both_transformers_on_both_images():
    preferred, rejected = log_likelihoods(pairs()["pixels"]), log_likelihoods(pairs()["rejected"])
    gap = (preferred[0] - preferred[1]) - (rejected[0] - rejected[1])
    loss, sums = compiled_loss()(dalle(0), task_of().frozen())
    expected = np.log1p(np.exp(-0.5 * gap)).mean() - 0.2 * preferred[0].mean() / 4
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(sums["preference_margin"], (gap.sum(), 4), rtol=1e-3)
    np.testing.assert_allclose(sums["preferred_gain"], ((preferred[0] - preferred[1]).sum(), 4), rtol=1e-3)
    assert sums["preference_accuracy"][0] == (gap > 0).sum()


def test_a_policy_like_its_reference_has_no_margin_no_kl_and_half_of_beta_as_its_slope():
    _, sums = compiled_loss()(dalle(1), task_of().frozen())
    assert abs(sums["preference_margin"][0]) < 1e-3 and abs(sums["kl"][0]) < 1e-3 and sums["kl_infinite"][0] == 0
    gap = jnp.array([0.0])
    slope = jax.grad(lambda one: preference_loss(one, gap, beta=0.5).sum())(gap)
    np.testing.assert_allclose(slope, -0.25)


@pytest.mark.slow
def test_held_out_pairs_and_held_out_images_are_measured_by_their_own_metrics():
    task, batch = task_of(), jax.tree.map(jnp.asarray, pairs())
    run = nnx.jit(lambda module, frozen, batch: task.evaluate(module, frozen, batch, KEY))
    assert "preference_accuracy" in run(dalle(0), task.frozen(), batch)
    images = {name: batch[name] for name in ("text", "pixels")}
    assert "image_nll" in run(dalle(0), task.frozen(), images)


def test_a_beta_of_zero_and_training_data_without_pairs_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="beta, preferred_weight: expected more than 0"):
        replace(CONFIG, beta=0.0)
    monkeypatch.setattr(CodeGeneration, "prepare", lambda self, examples, seeds: {})
    with pytest.raises(UserError, match=r"data\.source: expected pairs of images, from @RankedCandidates"):
        task_of().prepare({"image": []}, [])


@pytest.mark.slow
def test_eight_devices_learn_from_pairs_as_one():
    task, found = task_of(), []
    trainer = Trainer(steps=1, schedule=ConstantRate(1e-3), optimizer=AdamW(beta1=0.0))
    for mesh in (Mesh(1, 1, 1), Mesh(2, 2, 2)):
        layout = Layout(make_mesh(mesh), Rules())
        compiled = CompiledTask(task, trainer, layout)
        state = compiled.state_spec.init_sharded(layout, 0)
        found.append(jax.device_get(compiled.step(state, None, layout.put_batch(pairs()))[1]))
    for name, (total, count) in found[0].items():
        np.testing.assert_allclose(found[1][name][0] / found[1][name][1], total / count, rtol=1e-3, atol=1e-5)
