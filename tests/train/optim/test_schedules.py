import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dalle_jax.config.bind import loads
from dalle_jax.train.optim import schedules
from dalle_jax.train.optim.schedules import (
    ConstantRate,
    CosineRate,
    ExponentialRate,
    InverseRootRate,
    JoinedRate,
    LinearRate,
    PlateauRate,
    RsqrtRate,
    in_step,
)
from dalle_jax.train.trainer import Trainer

JOINED = JoinedRate(ConstantRate(2.0, warmup=4), 10, JoinedRate(LinearRate(4.0), 50, ConstantRate(1.0)))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ConstantRate(2.0, warmup=4), {0: 0.5, 1: 1.0, 3: 2.0, 99: 2.0}),
        (CosineRate(2.0, warmup=10), {0: 0.2, 9: 2.0, 10: 2.0, 60: 1.0, 110: 0.0}),
        (CosineRate(2.0, final=0.5), {0: 2.0, 55: 1.5, 110: 1.0}),
        (LinearRate(2.0, warmup=10, final=0.1), {0: 0.2, 10: 2.0, 60: 1.1, 110: 0.2}),
        (InverseRootRate(2.0, warmup=4), {0: 0.5, 3: 2.0, 15: 1.0, 63: 0.5}),
        (RsqrtRate(2.0, warmup=10, timescale=30), {0: 0.2, 9: 2.0, 99: 1.0}),
        (RsqrtRate(2.0, timescale=1, cooldown=20), {2: 1.0, 99: 2.0 / 101**0.5 * 11 / 20, 110: 0.0}),
        (ExponentialRate(2.0, factor=0.5, every=10, warmup=10), {0: 0.2, 10: 2.0, 15: 2.0**0.5, 20: 1.0, 40: 0.25}),
        (ExponentialRate(2.0, factor=0.5, every=10, stairs=True), {9: 2.0, 10: 1.0, 19: 1.0, 20: 0.5}),
        (PlateauRate(2.0, warmup=4), {0: 0.5, 3: 2.0, 99: 2.0}),
        (JOINED, {0: 0.5, 9: 2.0, 10: 4.0, 35: 2.0, 59: 4.0 / 50, 60: 1.0, 109: 1.0}),
    ],
)
def test_rates_equal_values_computed_by_hand(schedule, expected):
    for step, rate in expected.items():
        assert float(schedule.as_optax(110)(step)) == pytest.approx(rate, rel=1e-6, abs=1e-6)
        state = schedules.first_state(schedule)
        np.testing.assert_allclose(in_step(schedule, jnp.asarray(step), 110, state), rate, rtol=1e-6, atol=1e-6)


def test_rsqrt_with_the_warm_up_as_its_timescale_is_the_inverse_root():
    one, other = RsqrtRate(3.0, warmup=7, timescale=7), InverseRootRate(3.0, warmup=7)
    rates = [[float(schedule.as_optax(100)(step)) for step in range(50)] for schedule in (one, other)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-6)


def shares(schedule: PlateauRate, losses: list[float]) -> list[float]:
    """Return the factor of the rate at each step for these losses."""
    state, found = schedules.first_state(schedule), []
    follow = jax.jit(lambda state, step, loss: schedules.next_state(schedule, state, step, loss))
    for step, loss in enumerate(losses):
        found.append(float(in_step(schedule, jnp.asarray(step), 100, state)) / float(schedule.as_optax(100)(step)))
        state = follow(state, step, jnp.float32(loss))
    return found


def test_the_rate_is_halved_after_patience_windows_without_a_better_loss():
    plateau = PlateauRate(1.0, window=2, patience=2, threshold=0.01, lowest=0.25)
    # Windows of two steps have the means 4, 3, 3, 3 (halved), 2, 2, 2 (halved), 2, 2 (already at the lowest).
    losses = [5.0, 3.0, 4.0, 2.0, 3.0, 3.0, 2.5, 3.5] + [2.0] * 6 + [1.999] * 4
    assert shares(plateau, losses) == pytest.approx([1.0] * 8 + [0.5] * 6 + [0.25] * 4)


def test_losses_of_the_warm_up_do_not_count():
    plateau = PlateauRate(1.0, warmup=3, window=1, patience=2, threshold=0.01)
    assert shares(plateau, [0.0] * 3 + [9.0] * 4) == pytest.approx([1.0] * 6 + [0.5])


def test_a_loss_below_zero_reaches_a_plateau_too():
    plateau = PlateauRate(1.0, window=1, patience=2, threshold=0.01)
    assert shares(plateau, [-1.0, -2.0, -2.0, -2.01, -2.5]) == pytest.approx([1.0] * 4 + [0.5])
    assert shares(plateau, [0.0, 0.0, 0.0, 0.0]) == pytest.approx([1.0] * 3 + [0.5])
    assert shares(plateau, [-1.0, -1.1, -1.2, -1.3, -1.4]) == [1.0] * 5


def test_plateaus_equal_those_of_optax():
    plateau = PlateauRate(1.0, window=3, patience=2, threshold=0.05, factor=0.3, lowest=0.01)
    losses = np.random.default_rng(0).uniform(1.0, 1.2, 60)
    theirs = optax.contrib.reduce_on_plateau(0.3, 2, rtol=0.05, accumulation_size=3, min_scale=0.01)
    state, expected = theirs.init({"w": jnp.zeros(())}), []
    for loss in losses:
        expected.append(float(state.scale))
        _, state = theirs.update({"w": jnp.zeros(())}, state, value=loss)
    assert shares(plateau, list(losses)) == pytest.approx(expected)
    assert len(set(expected)) > 3


@pytest.mark.parametrize("kind", [ConstantRate, CosineRate, LinearRate, InverseRootRate, RsqrtRate, PlateauRate])
def test_a_rate_that_would_train_uphill_and_a_negative_warm_up_are_refused(kind):
    with pytest.raises(ValueError, match=r"rate: expected 0 or more, got -0\.001"):
        kind(-1e-3, warmup=10)
    with pytest.raises(ValueError, match=r"warmup: expected 0 steps or more, got -1"):
        kind(1e-3, warmup=-1)


def test_an_invalid_plateau_is_refused():
    with pytest.raises(ValueError, match="factor: expected a share between 0 and 1, got 2"):
        PlateauRate(1.0, factor=2.0)
    with pytest.raises(ValueError, match="window: expected at least 1, got 0"):
        PlateauRate(1.0, window=0)


def test_a_config_joins_schedules():
    text = """
    steps = 200
    schedule = @JoinedRate
    schedule.until = 10
    schedule.first = @ConstantRate
    schedule.first.rate = 2.0
    schedule.first.warmup = 4
    schedule.then = @JoinedRate
    schedule.then.until = 50
    schedule.then.first = @LinearRate
    schedule.then.first.rate = 4.0
    schedule.then.then = @ConstantRate
    schedule.then.then.rate = 1.0
    """
    assert loads("\n".join(line.strip() for line in text.splitlines()), Trainer).schedule == JOINED
    assert dataclasses.replace(JOINED, until=11) != JOINED
