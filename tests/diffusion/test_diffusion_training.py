"""Drawn levels and losses of training, on Gaussians whose optimal loss is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.diffusion.continuous import LogitNormalTimes, RectifiedFlow
from dalle_jax.diffusion.diffusion_training import DiffusionTraining, ImportanceTimes, levels_at
from dalle_jax.diffusion.importance import LossHistory
from dalle_jax.diffusion.levels import add_noise
from dalle_jax.diffusion.loss import HybridLoss
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.parameterization import ModelOutput
from dalle_jax.diffusion.trained_diffusion import TrainedDiffusion
from dalle_jax.diffusion.weighting import MinSnr
from tests.diffusion.gaussians import gaussian

ROWS = 6
X0 = jax.random.normal(jax.random.key(0), (ROWS, 4)).clip(-1, 1)
NOISE = jax.random.normal(jax.random.key(1), (ROWS, 4))
STEPS = TrainedDiffusion(CosineNoise(50), "noise")
FLOW = TrainedDiffusion(RectifiedFlow(), "velocity")


def test_the_loss_of_a_flow_is_the_squared_error_of_the_velocity():
    drawn = DiffusionTraining().draw(jax.random.key(2), ROWS, FLOW, None)
    assert drawn.timestep is None
    losses = DiffusionTraining().losses(gaussian("velocity"), X0, NOISE, drawn, FLOW)
    predicted = gaussian("velocity")(add_noise(X0, NOISE, drawn.level), drawn.level).prediction
    np.testing.assert_allclose(losses, jnp.square(predicted - (NOISE - X0)).mean(-1), rtol=1e-5)


def test_a_network_with_a_variance_is_trained_by_the_hybrid_loss():
    drawn = levels_at(STEPS, jnp.linspace(0, 0.99, ROWS))
    np.testing.assert_array_equal(drawn.timestep, [0, 9, 19, 29, 39, 49])

    def with_variance(x, level):
        return ModelOutput(gaussian()(x, level).prediction, jnp.full_like(x, 0.2))

    training = DiffusionTraining(weighting=MinSnr(), vlb=0.01)
    found = training.losses(with_variance, X0, NOISE, drawn, STEPS)
    output = with_variance(add_noise(X0, NOISE, drawn.level), drawn.level)
    expected = HybridLoss(0.01, weighting=MinSnr())(output, X0, NOISE, drawn.timestep, STEPS.discrete(), "noise")
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (found > training.losses(gaussian(), X0, NOISE, drawn, STEPS)).all()


def test_importance_sampling_draws_costly_timesteps_often_and_keeps_the_mean_loss():
    training, costs = DiffusionTraining(ImportanceTimes(kept=1)), jnp.where(jnp.arange(50) < 10, 4.0, 1.0)
    history = LossHistory.empty(50, kept=1).add(jnp.arange(50), costs)
    drawn = training.draw(jax.random.key(3), 4000, STEPS, history)
    np.testing.assert_allclose((drawn.timestep < 10).mean(), 0.5, atol=0.03)  # 10 of cost 4, 40 of cost 1
    np.testing.assert_allclose((drawn.weight * costs[drawn.timestep]).mean(), costs.mean(), rtol=0.02)
    np.testing.assert_array_equal(drawn.level.time, drawn.timestep)
    with pytest.raises(ValueError, match="history: expected the losses of each timestep, got None"):
        training.draw(jax.random.key(3), 4, STEPS, None)


def test_importance_sampling_needs_timesteps():
    with pytest.raises(ValueError, match="expected UniformTimes or LogitNormalTimes for the continuous RectifiedFlow"):
        DiffusionTraining(ImportanceTimes()).check(FLOW)
    DiffusionTraining(ImportanceTimes()).check(STEPS)


def test_higher_times_are_noisier_in_both_kinds_of_process():
    for diffusion in (STEPS, FLOW):
        sigmas = [
            DiffusionTraining(LogitNormalTimes(mean)).draw(jax.random.key(4), 200, diffusion, None).level.sigma.mean()
            for mean in (-1.0, 1.0)
        ]
        assert sigmas[0] + 0.2 < sigmas[1]
