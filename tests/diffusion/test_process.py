"""Noise schedules, spacings, and the discrete process with its posterior."""

import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.diffusion.levels import Levels, posterior
from dalle_jax.diffusion.noise_schedules import CosineNoise, LinearNoise, SigmoidNoise
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.spacing import Fast27Steps, RoundedSteps, SectionSteps, StrideSteps, parse_spacing

SCHEDULES = [CosineNoise(), LinearNoise(), SigmoidNoise()]


def test_the_cosine_schedule_follows_its_formula_up_to_the_largest_beta():
    process = DiscreteProcess.of(CosineNoise())
    t = np.arange(1, 1001) / 1000
    curve = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(process.alpha_bars[:-1], curve[:-1], rtol=1e-9)
    assert process.betas[-1] == 0.999


def test_the_linear_schedule_keeps_its_noise_for_other_numbers_of_steps():
    betas = LinearNoise().betas()
    assert (betas[0], betas[-1], np.ptp(np.diff(betas)) < 1e-15) == (1e-4, 0.02, True)
    whole, half = (DiscreteProcess.of(LinearNoise(steps)).alpha_bars[-1] for steps in (1000, 500))
    np.testing.assert_allclose(np.log(half), np.log(whole), rtol=0.02)


def test_the_sigmoid_schedule_is_half_data_in_the_middle():
    np.testing.assert_allclose(DiscreteProcess.of(SigmoidNoise()).alpha_bars[499], 0.5, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: type(one).__name__)
def test_respacing_keeps_original_timesteps_and_their_noise(schedule):
    whole = DiscreteProcess.of(schedule)
    few = whole.respaced(SectionSteps((10, 5, 5)))
    assert few.steps == 20 and (few.timesteps[0], few.timesteps[-1]) == (0, 999)
    np.testing.assert_allclose(few.alpha_bars, whole.alpha_bars[few.timesteps], rtol=1e-6)
    twice = few.respaced(SectionSteps((4,)))
    np.testing.assert_array_equal(twice.timesteps, few.timesteps[[0, 6, 13, 19]])
    level = twice.level(jnp.array([3, 0]))
    np.testing.assert_array_equal(level.time, [999, 0])
    np.testing.assert_allclose(level.alpha**2 + level.sigma**2, 1, rtol=1e-6)
    np.testing.assert_array_equal(twice.levels.times, twice.timesteps[::-1])


def test_spacings_pick_the_published_timesteps():
    assert list(parse_spacing("4,2").timesteps(12)) == [0, 2, 3, 5, 6, 11]
    assert list(StrideSteps(4).timesteps(12)) == [0, 3, 6, 9]
    assert list(RoundedSteps(3).timesteps(1000)) == [0, 500, 999]
    fast = parse_spacing("fast27").timesteps(1000)
    assert isinstance(parse_spacing("fast27"), Fast27Steps) and len(fast) == 27
    assert (fast[0], fast[-1]) == (0, 997)
    assert parse_spacing("ddim25") == StrideSteps(25)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parse_spacing("fast"), "spacing: expected"),
        (lambda: SectionSteps((7,)).timesteps(6), "expected at most 6 timesteps in section 0, got 7"),
        (lambda: SectionSteps(()).timesteps(6), "counts: expected"),
        (lambda: StrideSteps(7).timesteps(12), "that a whole stride keeps of 12, .* got 7"),
        (lambda: RoundedSteps(1).timesteps(12), "expected between 2 and 12 timesteps, got 1"),
        (lambda: CosineNoise(0).betas(), "steps: expected at least 1, got 0"),
        (lambda: DiscreteProcess(np.array([0.1, 0.0]), np.arange(2)), "betas: expected values in"),
        (lambda: DiscreteProcess.of(LinearNoise()).levels.after(1000), "step: expected between 0 and 999, got 1000"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_it(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: type(one).__name__)
def test_the_posterior_has_the_published_coefficients(schedule):
    process = DiscreteProcess.of(schedule, SectionSteps((50,)))
    bars, before = process.alpha_bars, np.append(1.0, process.alpha_bars[:-1])
    found, betas = process.posterior, process.betas
    np.testing.assert_allclose(found.of_x0, np.sqrt(before) * betas / (1 - bars), rtol=1e-6)
    np.testing.assert_allclose(found.of_x, np.sqrt(1 - betas) * (1 - before) / (1 - bars), rtol=1e-6)
    np.testing.assert_allclose(found.variance, betas * (1 - before) / (1 - bars), rtol=1e-6)
    np.testing.assert_allclose(found.log_variance[1:], np.log(found.variance[1:]), rtol=1e-12)
    assert found.log_variance[0] == found.log_variance[1]


def test_the_posterior_of_any_path_is_that_of_joint_gaussians():
    levels = Levels(np.array([0.8]), np.array([0.2, 0.5]), np.array([0.8, 0.5]))
    found = posterior(levels)
    # Given x0: x' = 0.5 x0 + 0.5 a, and x = 0.4 x' + rest, so cov(x', x) = 0.4 * 0.25 and var x = 0.64.
    gain = 0.4 * 0.25 / 0.64
    np.testing.assert_allclose(found.of_x, gain)
    np.testing.assert_allclose(found.of_x0, 0.5 - gain * 0.2)
    np.testing.assert_allclose(found.variance, 0.25 - gain * 0.1)
