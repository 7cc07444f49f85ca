"""Losses, their gradients, importance sampling of timesteps, and training times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.diffusion.continuous import LogitNormalTimes, RectifiedFlow, UniformTimes, as_timesteps
from dalle_jax.diffusion.importance import LossHistory
from dalle_jax.diffusion.levels import add_noise
from dalle_jax.diffusion.loss import HybridLoss, binned_nll, gaussian_kl, gaussian_nll, simple_loss, vlb_term
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.parameterization import Estimate, ModelOutput, from_estimate
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.weighting import MinSnr, UniformWeight

PROCESS = DiscreteProcess.of(CosineNoise(100))
INDEX = jnp.array([0, 1, 50, 99])
X0 = jnp.clip(0.5 * jax.random.normal(jax.random.key(0), (4, 3, 2)), -1, 1)
NOISE = jax.random.normal(jax.random.key(1), X0.shape)
WRONG = NOISE + 0.1 * jax.random.normal(jax.random.key(2), X0.shape)
VARIANCE = jax.random.uniform(jax.random.key(3), X0.shape, minval=-1, maxval=1)


@pytest.mark.parametrize("prediction", ["noise", "x0", "v", "velocity"])
def test_the_simple_loss_is_zero_at_the_target_and_the_weighted_error_elsewhere(prediction):
    level = PROCESS.level(INDEX)
    target = from_estimate(Estimate(X0, NOISE), prediction, level)
    np.testing.assert_array_equal(simple_loss(ModelOutput(target), X0, NOISE, level, prediction, UniformWeight()), 0)
    loss = simple_loss(ModelOutput(target + 0.5), X0, NOISE, level, prediction, MinSnr())
    np.testing.assert_allclose(loss, 0.25 * MinSnr().weight(level, prediction), rtol=1e-5)


def test_flow_matching_recovers_the_velocity_of_gaussians():
    """The velocity E[noise - x0 | x] of standard normal data is linear in x; least squares must find its slope."""
    level = RectifiedFlow().level(jnp.full(20_000, 0.3))
    x0, noise = jax.random.normal(jax.random.key(5), (2, 20_000, 1))
    x = add_noise(x0, noise, level)

    def loss(slope):
        return simple_loss(ModelOutput(slope * x), x0, noise, level, "velocity", UniformWeight()).mean()

    best = -jax.grad(loss)(0.0) / jax.grad(jax.grad(loss))(0.0)
    np.testing.assert_allclose(best, (0.3 - 0.7) / (0.3**2 + 0.7**2), atol=0.03)


def test_the_hybrid_loss_reaches_the_mean_by_the_simple_term_alone():
    def hybrid(prediction, variance):
        return HybridLoss()(ModelOutput(prediction, variance), X0, NOISE, INDEX, PROCESS, "noise").sum()

    def simple(prediction):
        level = PROCESS.level(INDEX)
        return simple_loss(ModelOutput(prediction), X0, NOISE, level, "noise", UniformWeight()).sum()

    of_mean, of_variance = jax.grad(hybrid, argnums=(0, 1))(WRONG, VARIANCE)
    np.testing.assert_allclose(of_mean, jax.grad(simple)(WRONG), rtol=1e-6)
    assert (jnp.abs(of_variance).max((1, 2)) > 1e-8).all()
    assert jnp.isfinite(of_variance).all()


def test_the_hybrid_loss_adds_the_bound_of_all_timesteps_with_its_weight():
    output = ModelOutput(WRONG, VARIANCE)
    simple = simple_loss(output, X0, NOISE, PROCESS.level(INDEX), "noise", UniformWeight())
    term = vlb_term(output, X0, NOISE, INDEX, PROCESS, "noise", 256)
    loss = HybridLoss(vlb=0.01)(output, X0, NOISE, INDEX, PROCESS, "noise")
    np.testing.assert_allclose(loss, simple + 0.01 * 100 * term, rtol=1e-5)
    with pytest.raises(ValueError, match="expected a network with a learned variance"):
        HybridLoss()(ModelOutput(WRONG), X0, NOISE, INDEX, PROCESS, "noise")


def test_the_bound_is_zero_for_the_true_mean_and_the_posterior_variance():
    output = ModelOutput(NOISE, jnp.full(X0.shape, -1.0))
    term = vlb_term(output, X0, NOISE, INDEX, PROCESS, "noise", 256)
    np.testing.assert_allclose(term[1:], 0, atol=2e-4)
    off = vlb_term(output._replace(variance=jnp.ones(X0.shape)), X0, NOISE, INDEX, PROCESS, "noise", 256)
    assert (off[1:3] > 1e-4).all()


def test_the_divergence_of_gaussians_is_the_mean_difference_of_their_log_densities():
    sample = 0.3 + jnp.exp(0.5 * -0.4) * jax.random.normal(jax.random.key(6), (200_000,))
    one, other = (jnp.array(0.3), jnp.array(-0.4)), (jnp.array(-0.2), jnp.array(0.5))
    difference = gaussian_nll(sample, *other) - gaussian_nll(sample, *one)
    np.testing.assert_allclose(gaussian_kl(*one, *other), difference.mean(), atol=0.01)


@pytest.mark.parametrize("log_variance", [-6.0, 0.0])
def test_the_masses_of_all_pixel_values_add_up_to_1(log_variance):
    values = jnp.linspace(-1, 1, 16)
    nll = binned_nll(values, jnp.full(16, 0.4), jnp.full(16, log_variance), 16)
    np.testing.assert_allclose(jnp.exp(-nll).sum(), 1, rtol=1e-5)


def test_timesteps_of_high_loss_are_drawn_more_often_with_a_lower_weight():
    history = LossHistory.empty(4, kept=2)
    np.testing.assert_allclose(history.probabilities(), 0.25)
    index = jnp.array([0, 1, 2, 3, 3, 2, 1, 0, 0])
    losses = jnp.array([9.0, 1.0, 2.0, 4.0, 4.0, 2.0, 1.0, 1.0, 1.0])
    history = jax.jit(lambda history: history.add(index, losses))(history)
    np.testing.assert_array_equal(history.losses[0], [1, 1])  # the first loss, 9, is no longer kept
    p = history.probabilities()
    np.testing.assert_allclose(p, 0.999 * np.array([1, 1, 2, 4]) / 8 + 0.001 / 4, rtol=1e-5)
    drawn, weights = history.draw(jax.random.key(0), 40_000)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 40_000, p, atol=0.01)
    value = jnp.array([5.0, -1.0, 2.0, 0.5])
    np.testing.assert_allclose((weights * value[drawn]).mean(), value.mean(), atol=0.05)


def test_importance_is_uniform_until_every_timestep_has_its_losses():
    history = LossHistory.empty(3, kept=1).add(jnp.array([0, 1]), jnp.array([5.0, 1.0]))
    np.testing.assert_allclose(history.probabilities(), 1 / 3, rtol=1e-6)


def test_training_times_have_their_distribution_and_depend_on_their_keys():
    keys = jax.random.split(jax.random.key(7), 20_000)
    uniform, normal = UniformTimes().draw(keys), LogitNormalTimes(-1.6, 0.8).draw(keys)
    np.testing.assert_allclose(np.quantile(uniform, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.02)
    logits = jnp.log(normal / (1 - normal))
    np.testing.assert_allclose([logits.mean(), logits.std()], [-1.6, 0.8], atol=0.03)
    np.testing.assert_array_equal(LogitNormalTimes(-1.6, 0.8).draw(keys[5:6]), normal[5:6])
    steps = as_timesteps(jnp.array([0.0, 0.4999, 0.5, 1.0]), 4)
    np.testing.assert_array_equal(steps, [0, 1, 2, 3])
