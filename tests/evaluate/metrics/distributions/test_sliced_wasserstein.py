"""MIND equals its formula, also for unequal numbers of images, and stays below its noise for equal distributions."""

import numpy as np
import pytest
from feature_rows import WIDTH, feature_set, random_rows
from scipy.stats import wasserstein_distance

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.distributions.sliced_wasserstein import (
    SlicedWasserstein,
    random_directions,
    sliced_distance,
)

MIND = SlicedWasserstein(directions=100)


def test_mind_is_its_formula():
    x, y = random_rows(120, 0).astype(np.float64), random_rows(120, 1, shift=0.3).astype(np.float64)
    directions = random_directions(70, WIDTH, 0)  # more than are projected at once
    expected = np.mean([np.square(np.sort(x @ u) - np.sort(y @ u)).mean() for u in directions])
    assert sliced_distance(x, y, directions).value == pytest.approx(3 * WIDTH * expected, rel=1e-12)


def test_unequal_numbers_of_images_are_compared_exactly():
    x, y = random_rows(40, 0).astype(np.float64), random_rows(60, 1, shift=0.3).astype(np.float64)
    directions = random_directions(5, WIDTH, 0)
    repeated = sliced_distance(np.repeat(x, 3, axis=0), np.repeat(y, 2, axis=0), directions)
    assert sliced_distance(x, y, directions).value == pytest.approx(repeated.value, rel=1e-12)
    shifted = sliced_distance(x, np.tile(x[:, :], (2, 1)) + 0.5, directions).value
    one_line = [wasserstein_distance(x @ u, x @ u + 0.5 * u.sum()) ** 2 for u in directions]
    assert shifted == pytest.approx(3 * WIDTH * np.mean(one_line), rel=1e-9)


def test_a_shift_counts_three_times_its_square():
    x = random_rows(100, 0).astype(np.float64)
    step = np.linspace(0.1, 0.4, WIDTH)
    found = sliced_distance(x, x + step, random_directions(4000, WIDTH, 0)).value
    assert found == pytest.approx(3 * step @ step, rel=0.1)


def test_effects_are_the_derivative_for_the_weight_of_an_image():
    x, y = random_rows(60, 0).astype(np.float64), random_rows(45, 1, shift=0.5).astype(np.float64)
    directions = random_directions(30, WIDTH, 0)
    for side in (0, 1):
        found = sliced_distance(x, y, directions)
        own, copies = (x, y)[side], 40
        more = [x, y]
        # Image 5 gets the weight of 41 of ``copies`` times as many: a relative step of 1 / n.
        more[side] = np.concatenate([np.repeat(own, copies, axis=0), own[5:6]])
        more[1 - side] = np.repeat((y, x)[side], 2, axis=0)
        change = (sliced_distance(*more, directions).value - found.value) * (copies * len(own) + 1)
        effect = found.effects[side] - found.effects[side].mean()
        assert change == pytest.approx(effect[5], rel=0.05, abs=0.02 * np.abs(effect).max())


def test_mind_is_near_its_noise_for_one_distribution_and_far_above_it_for_two():
    (same,) = MIND.compare(feature_set(random_rows(300, 0)), feature_set(random_rows(200, 1)))
    (other,) = MIND.compare(feature_set(random_rows(300, 0)), feature_set(random_rows(200, 2, shift=0.5)))
    assert same.value == pytest.approx(same.noise, rel=0.5)
    assert other.value > 5 * other.noise
    assert other.interval[0] < other.value < other.interval[1]


def test_the_interval_is_as_wide_as_the_spread_of_figures_of_new_images():
    found = [
        SlicedWasserstein(directions=40, shuffles=0).compare(
            feature_set(random_rows(150, 2 * seed)), feature_set(random_rows(150, 2 * seed + 1, shift=0.4))
        )[0]
        for seed in range(40)
    ]
    widths = [one.interval[1] - one.interval[0] for one in found]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std([one.value for one in found]), rel=0.3)
    assert found[0].noise is None


def test_mind_of_few_images_is_refused():
    with pytest.raises(UserError, match="mind: expected at least 100 reference and generated images"):
        MIND.compare(feature_set(random_rows(300, 0)), feature_set(random_rows(99, 1)))
