"""Predictions converted into one another, thresholds of x0, and loss weights."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.diffusion.levels import NoiseLevel, add_noise
from dalle_jax.diffusion.parameterization import (
    ClipX0,
    DynamicThreshold,
    Estimate,
    ModelOutput,
    Parameterization,
    from_estimate,
    split_variance,
    to_estimate,
)
from dalle_jax.diffusion.weighting import MinSnr, P2Weight, SigmoidWeight, UniformWeight, VelocityWeight

PREDICTIONS = ["noise", "x0", "v", "velocity"]
ALPHA = jnp.array([0.9, 0.3])
PRESERVING = NoiseLevel(jnp.array([1.0, 9.0]), ALPHA, jnp.sqrt(1 - ALPHA**2))
STRAIGHT = NoiseLevel(1 - ALPHA, ALPHA, 1 - ALPHA)
X0, NOISE = jax.random.normal(jax.random.key(0), (2, 2, 3, 4))


@pytest.mark.parametrize("level", [PRESERVING, STRAIGHT], ids=["preserving", "straight"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_prediction_and_x_give_back_x0_and_noise(prediction, level):
    value = from_estimate(Estimate(X0, NOISE), prediction, level)
    found = to_estimate(value, prediction, add_noise(X0, NOISE, level), level)
    np.testing.assert_allclose(found.x0, X0, atol=3e-6)
    np.testing.assert_allclose(found.noise, NOISE, atol=3e-6)


def test_velocity_is_the_derivative_along_the_straight_path():
    def at(time):
        return add_noise(X0, NOISE, NoiseLevel(time, 1 - time, time))

    derivative = jax.jvp(at, (STRAIGHT.time,), (jnp.ones(2),))[1]
    np.testing.assert_allclose(from_estimate(Estimate(X0, NOISE), "velocity", STRAIGHT), derivative, atol=1e-6)


def test_v_is_the_derivative_by_the_angle():
    def at(angle):
        return add_noise(X0, NOISE, NoiseLevel(angle, jnp.cos(angle), jnp.sin(angle)))

    derivative = jax.jvp(at, (jnp.arccos(ALPHA),), (jnp.ones(2),))[1]
    np.testing.assert_allclose(from_estimate(Estimate(X0, NOISE), "v", PRESERVING), derivative, atol=1e-6)


def test_clipping_changes_the_noise_so_that_both_still_give_x():
    x = add_noise(X0, NOISE, PRESERVING)
    found = Parameterization("noise", ClipX0(0.5)).estimate(ModelOutput(NOISE), x, PRESERVING)
    assert jnp.abs(found.x0).max() == 0.5
    np.testing.assert_allclose(add_noise(found.x0, found.noise, PRESERVING), x, atol=2e-6)


def test_the_dynamic_threshold_is_a_quantile_of_each_image():
    x0 = jnp.stack([jnp.linspace(-4, 4, 101), jnp.linspace(-0.5, 0.5, 101)])
    found = DynamicThreshold(quantile=0.5).apply(x0)
    np.testing.assert_allclose(found[0], np.clip(x0[0], -2, 2) / 2, rtol=1e-5)
    np.testing.assert_array_equal(found[1], x0[1])


def test_a_learned_variance_is_the_second_half_of_the_channels():
    output = split_variance(jnp.arange(12.0).reshape(1, 2, 6))
    np.testing.assert_array_equal(output.prediction, [[[0, 1, 2], [6, 7, 8]]])
    np.testing.assert_array_equal(output.variance, [[[3, 4, 5], [9, 10, 11]]])
    with pytest.raises(ValueError, match="got 5"):
        split_variance(jnp.zeros((1, 2, 5)))


WEIGHTS = [MinSnr(), MinSnr(1.0), P2Weight(), P2Weight(0.5, 2.0), SigmoidWeight(-1.0), VelocityWeight()]


@pytest.mark.parametrize("weighting", WEIGHTS, ids=str)
@pytest.mark.parametrize("level", [PRESERVING, STRAIGHT], ids=["preserving", "straight"])
def test_a_weighted_error_is_the_same_for_every_prediction(weighting, level):
    x, off = add_noise(X0, NOISE, level), 0.1 * jax.random.normal(jax.random.key(1), X0.shape)
    losses = []
    for prediction in PREDICTIONS:
        true = from_estimate(to_estimate(X0, "x0", x, level), prediction, level)
        wrong = from_estimate(to_estimate(X0 + off, "x0", x, level), prediction, level)
        losses.append(weighting.weight(level, prediction) * jnp.square(wrong - true).mean((1, 2)))
    for one, other in itertools.pairwise(losses):
        np.testing.assert_allclose(one, other, rtol=2e-4)


def test_weights_are_those_of_their_papers():
    snr = PRESERVING.snr
    np.testing.assert_allclose(MinSnr(5.0).weight(PRESERVING, "noise"), np.minimum(snr, 5) / snr, rtol=1e-5)
    np.testing.assert_allclose(MinSnr(5.0).weight(PRESERVING, "x0"), np.minimum(snr, 5), rtol=1e-5)
    np.testing.assert_allclose(MinSnr(5.0).weight(PRESERVING, "v"), np.minimum(snr, 5) / (snr + 1), rtol=1e-5)
    np.testing.assert_allclose(P2Weight(2.0, 3.0).weight(PRESERVING, "noise"), (3 + snr) ** -2, rtol=1e-5)
    np.testing.assert_allclose(SigmoidWeight(1.0).weight(PRESERVING, "noise"), np.e / (np.e + snr), rtol=1e-5)
    np.testing.assert_array_equal(UniformWeight().weight(PRESERVING, "velocity"), [1, 1])
    np.testing.assert_allclose(VelocityWeight().weight(STRAIGHT, "velocity"), 1, rtol=1e-5)
    np.testing.assert_allclose(VelocityWeight(0.5).weight(STRAIGHT, "x0"), np.maximum(STRAIGHT.sigma, 0.5) ** -2)


def test_weights_at_pure_noise_are_finite():
    noise = NoiseLevel(jnp.ones(1), jnp.zeros(1), jnp.ones(1))
    for weighting, prediction in itertools.product(WEIGHTS, PREDICTIONS):
        assert jnp.isfinite(weighting.weight(noise, prediction)).all()
