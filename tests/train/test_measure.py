"""Statistics of the training data: measured once, before the first step, and kept by checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.task import MeasuresData
from tests.train.runs import run
from tests.train.toy import Lines, Model, Seen, Toy, layout

COUNT = 20  # two and a half batches of Lines


class WithMean(Model):
    """The toy with the mean of the inputs, which a step leaves alone."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        super().__init__(width, rngs)
        self.measured = Seen(jnp.zeros((4,)), axes=(None,))


@dataclass(frozen=True)
class Measuring(Toy):
    """The toy task whose new module has the measured mean; ``asked`` counts the batches that were measured."""

    found: tuple[float, ...] | None = None
    asked: list[int] = field(default_factory=list)

    @property
    def measured_examples(self) -> int:
        return COUNT

    def measurements(self, frozen: object, batch: dict) -> dict:
        self.asked.append(1)  # once per compilation
        return {"x": batch["x"]}

    def with_measurements(self, found: Mapping[str, np.ndarray]) -> "Measuring":
        assert found["x"].shape == (COUNT, 4) and found["x"].dtype == np.float32
        return replace(self, found=tuple(found["x"].astype(np.float64).mean(axis=0).tolist()))

    def init(self, rngs: nnx.Rngs) -> WithMean:
        module = WithMean(self.width, rngs)
        if self.found is not None:
            module.measured[...] = jnp.asarray(self.found)
        return module


def expected() -> np.ndarray:
    rows = [np.stack(Lines().batch(step, range(8))["x"]).astype(np.float32) for step in range(3)]
    return np.concatenate(rows)[:COUNT].astype(np.float64).mean(axis=0)


def mean_of(loop) -> np.ndarray:
    return np.asarray(loop.state.learned.non_params["measured"])


def test_a_new_run_measures_its_first_examples_and_a_resumed_one_keeps_the_checkpoint_s(tmp_path):
    task = Measuring()
    assert isinstance(task, MeasuresData) and not isinstance(Toy(), MeasuresData)
    first = run(tmp_path, task=task, steps=2, schedule=ConstantRate(0.01))
    np.testing.assert_allclose(mean_of(first), expected(), rtol=1e-6)
    assert len(task.asked) == 1
    resumed = run(tmp_path, task=task, steps=4, schedule=ConstantRate(0.01))
    np.testing.assert_array_equal(mean_of(resumed), mean_of(first))
    assert len(task.asked) == 1
    assert int(resumed.state.counted.step) == 4


def test_a_run_from_given_weights_keeps_their_statistics(tmp_path):
    given = run(tmp_path / "given", task=Measuring(), steps=1, schedule=ConstantRate(0.01))
    task = Measuring()
    tuned = run(
        tmp_path / "tuned", Lines(seed=9), task, initial=str(tmp_path / "given"), steps=1, schedule=ConstantRate(0.01)
    )
    np.testing.assert_array_equal(mean_of(tuned), mean_of(given))
    assert task.asked == []


def test_the_statistics_are_the_same_on_a_mesh(tmp_path):
    one, four = Measuring(), Measuring()
    alone = run(tmp_path / "one", task=one, steps=1, schedule=ConstantRate(0.01))
    spread = run(tmp_path / "four", task=four, lay=layout(2, 2), steps=1, schedule=ConstantRate(0.01))
    np.testing.assert_array_equal(mean_of(spread), mean_of(alone))
