import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.optim.ema import ConstantEma
from dalle_jax.train.optim.gradient_spikes import DECAY, RunningNorms, SkipSpikes
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.task import Objective
from dalle_jax.train.trainer import Trainer
from tests.train.runs import StopsAt, run
from tests.train.test_step import ShardableToy
from tests.train.toy import Lines, Toy, layout, leaves

SPIKES = SkipSpikes(times=5.0, after=4)
TRAINER = Trainer(steps=20, schedule=ConstantRate(1e-3), ema=ConstantEma(0.9), spikes=SPIKES)


@dataclasses.dataclass(frozen=True)
class Spiking(Lines):
    """Noisy lines whose inputs are a hundred times too large at the steps ``high``."""

    high: tuple[int, ...] = ()

    def batch(self, step, rows):
        examples = super().batch(step, rows)
        return {"x": [x * 100 for x in examples["x"]]} if step in self.high else examples


@dataclasses.dataclass(frozen=True)
class Adversarial(Toy):
    """A task whose second objective, of the bias, has no gradient before step ``begins``; both have spikes."""

    begins: int = 10
    fit_spikes: tuple[int, ...] = ()
    late_spikes: tuple[int, ...] = ()

    def objectives(self):
        bias = nnx.PathContains("bias")
        return (
            Objective("fit", nnx.All(nnx.Param, nnx.Not(bias)), self.fit_loss),
            Objective("late", nnx.All(nnx.Param, bias), self.late_loss),
        )

    def fit_loss(self, module, frozen, batch, key, step):
        value, sums = self.loss(module, frozen, batch, key, step)
        return value * spiking(step, self.fit_spikes), sums

    def late_loss(self, module, frozen, batch, key, step):
        value, _ = self.loss(module, frozen, batch, key, step)
        return value * jnp.where(step >= self.begins, spiking(step, self.late_spikes), 0.0), {}


def spiking(step, spikes):
    return jnp.where(jnp.isin(step, jnp.array(spikes, jnp.int32)), 1000.0, 1.0)


def counts(state):
    return {name: int(count) for name, count in state.remembered.gradient_norms.counts.items()}


def stepped(high=(), bad=(), steps=8, trainer=TRAINER, task=None, lay=None, rows=8):
    """Return the state after some steps, and the MetricSums and gradient norms of each step."""
    task, lay = task or Toy(), lay or layout()
    compiled = CompiledTask(task, trainer, lay)
    state, found = compiled.state_spec.init_sharded(lay, 0), []
    data = Spiking(rows=rows, high=high, bad=bad)
    for step in range(steps):
        batch = lay.put_batch(task.prepare(data.batch(step, range(rows)), None))
        state, sums = compiled.step(state, None, batch)
        found.append({name: float(total) for name, (total, weight) in sums.items()})
    return state, found


def test_a_spike_leaves_the_state_unchanged_and_is_counted_separately():
    before, _ = stepped(steps=6)
    after, sums = stepped(steps=7, high=(6,))
    same = ("learned", "remembered")
    assert leaves([getattr(after, name) for name in same]) == leaves([getattr(before, name) for name in same])
    assert (
        int(after.counted.step),
        int(after.counted.spiked),
        int(after.counted.skipped),
        int(after.counted.skipped_in_a_row),
    ) == (7, 1, 0, 1)
    assert [one["spiked"] for one in sums] == [0.0] * 6 + [1.0]
    assert sums[6]["gradient_norm/fit"] > 5 * max(one["gradient_norm/fit"] for one in sums[:6])


def test_the_running_average_is_over_applied_updates():
    state, sums = stepped(high=(5,), bad=(6,))
    average = 0.0
    for step, one in enumerate(sums):
        if step not in (5, 6):
            average = DECAY * average + (1 - DECAY) * one["gradient_norm/fit"]
    np.testing.assert_allclose(state.remembered.gradient_norms.averages["fit"], average, rtol=1e-5)
    assert (int(state.counted.spiked), int(state.counted.skipped), int(state.counted.skipped_in_a_row)) == (1, 1, 0)
    assert int(state.remembered.gradient_norms.counts["fit"]) == 6


def test_a_spike_exceeds_times_the_bias_corrected_average():
    spikes, counts = SkipSpikes(times=2.0, after=1), {"a": jnp.int32(3), "b": jnp.int32(3)}
    averages = {"a": (1 - DECAY**3) * jnp.float32(7.0), "b": jnp.float32(1.0)}  # of three norms of 7
    for norm, expected in ((13.9, False), (14.1, True)):
        norms = {"a": jnp.float32(norm), "b": jnp.float32(1.0)}
        assert bool(spikes.among(norms, RunningNorms(averages, counts))) == expected


@pytest.mark.parametrize("changes", [{"spikes": None}, {"spikes": SkipSpikes(times=5.0, after=7)}])
def test_without_the_setting_and_in_the_first_steps_no_update_is_a_spike(changes):
    state, _ = stepped(high=(6,), steps=7, trainer=dataclasses.replace(TRAINER, **changes))
    before, _ = stepped(steps=6, trainer=dataclasses.replace(TRAINER, **changes))
    assert int(state.counted.spiked) == 0 and leaves(state.learned.params) != leaves(before.learned.params)


def test_a_sharded_step_skips_the_same_updates():
    one, ones = stepped(high=(5,), task=ShardableToy(), rows=16)
    many, manys = stepped(high=(5,), task=ShardableToy(), lay=layout(2, 2, 2), rows=16)
    assert int(one.counted.spiked) == int(many.counted.spiked) == 1
    assert [sums["spiked"] for sums in ones] == [sums["spiked"] for sums in manys]
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


def test_a_run_resumed_between_spikes_equals_an_uninterrupted_run(tmp_path):
    data, spikes = Spiking(high=(7, 12)), SkipSpikes(times=4.0, after=5)

    class Stops(Spiking):
        def batch(self, step, rows):
            if step == 13:
                raise OSError("gone")
            return super().batch(step, rows)

    whole = run(tmp_path / "whole", data, spikes=spikes)
    with pytest.raises(OSError, match="gone"):
        run(tmp_path / "parts", Stops(high=(7, 12)), spikes=spikes)
    resumed = run(tmp_path / "parts", data, spikes=spikes)
    assert resumed.start == 10 and int(whole.state.counted.spiked) == 2
    assert leaves(resumed.state) == leaves(whole.state)


def test_the_start_of_a_late_objective_is_not_a_spike():
    state, sums = stepped(task=Adversarial(), steps=20)
    assert [one["gradient_norm/late"] > 0 for one in sums] == [False] * 10 + [True] * 10
    assert [one["spiked"] for one in sums] == [0.0] * 20
    assert counts(state) == {"fit": 20, "late": 10}
    average = 0.0
    for one in sums[10:]:
        average = DECAY * average + (1 - DECAY) * one["gradient_norm/late"]
    np.testing.assert_allclose(state.remembered.gradient_norms.averages["late"], average, rtol=1e-5)


@pytest.mark.parametrize("name", ["fit", "late"])
def test_a_spike_of_either_objective_is_skipped_after_both_have_started(name):
    task = Adversarial(**{f"{name}_spikes": (16,)})
    before, _ = stepped(task=task, steps=16)
    skipped, _ = stepped(task=task, steps=17)
    same = ("learned", "remembered")
    assert leaves([getattr(skipped, one) for one in same]) == leaves([getattr(before, one) for one in same])
    after, sums = stepped(task=task, steps=20)
    assert [one["spiked"] for one in sums] == [0.0] * 16 + [1.0] + [0.0] * 3
    assert counts(after) == {"fit": 19, "late": 9}


@pytest.mark.parametrize(("name", "spiked"), [("fit", 1), ("late", 0)])
def test_the_first_updates_that_are_exempt_are_counted_by_objective(name, spiked):
    state, _ = stepped(task=Adversarial(**{f"{name}_spikes": (12,)}), steps=13)  # the third update of the late one
    assert int(state.counted.spiked) == spiked
    assert counts(state) == {"fit": 13 - spiked, "late": 3 - spiked}


def test_a_run_resumed_while_an_objective_starts_equals_an_uninterrupted_run(tmp_path):
    task, spikes = Adversarial(begins=11, late_spikes=(14, 17)), SkipSpikes(times=5.0, after=4)
    whole = run(tmp_path / "whole", Lines(), task, spikes=spikes)
    with pytest.raises(OSError, match="gone"):
        run(tmp_path / "parts", StopsAt(step=16), task, spikes=spikes)
    resumed = run(tmp_path / "parts", Lines(), task, spikes=spikes)
    assert resumed.start == 15 and int(whole.state.counted.spiked) == 1  # 14 is the fourth update, 17 the seventh
    assert counts(whole.state) == {"fit": 19, "late": 8}
    assert leaves(resumed.state) == leaves(whole.state)


def test_too_many_spikes_in_a_row_end_the_run(tmp_path):
    with pytest.raises(UserError, match="the last 3 updates in a row were not finite or had a spike"):
        run(tmp_path / "run", Spiking(high=tuple(range(9, 12))), spikes=SkipSpikes(times=4.0, after=5))


@pytest.mark.parametrize(("given", "message"), [({"times": 1.0}, "more than 1"), ({"after": 0}, "at least 1")])
def test_settings_that_would_skip_everything_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        SkipSpikes(**{"times": 5.0} | given)
