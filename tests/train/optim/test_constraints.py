"""Parameters are moved back to their allowed values after each update, whatever the optimizer."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.optim.ema import ConstantEma
from dalle_jax.train.optim.optax_by_name import Optax
from dalle_jax.train.optim.optimizers import Adafactor, AdamW, Lion, Muon
from dalle_jax.train.optim.parameter_masks import TrainNamed
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.task import Constraint, Objective
from dalle_jax.train.trainer import Trainer
from tests.train.toy import Lines, Toy, layout

TRAINER = Trainer(steps=10, schedule=ConstantRate(0.1), ema=ConstantEma(0.5))
BOUND = 0.05


def within(x):
    return jnp.clip(x, -BOUND, BOUND)


@dataclasses.dataclass(frozen=True)
class Bounded(Toy):
    on: str = "bias"
    project: Callable = within

    def objectives(self):
        return (
            Objective("fit", nnx.Param, self.loss, constraints=(Constraint(nnx.PathContains(self.on), self.project),)),
        )


def stepped(task, trainer=TRAINER, steps=4, lay=None):
    lay = lay or layout()
    compiled = CompiledTask(task, trainer, lay)
    state = compiled.state_spec.init_sharded(lay, 0)
    for step in range(steps):
        state, _ = compiled.step(state, None, lay.put_batch(task.prepare(Lines().batch(step, range(8)), None)))
    return state


@pytest.mark.parametrize("optimizer", [AdamW(), Adafactor(factored_from=2), Lion(), Muon(), Optax("sgd")])
def test_every_optimizer_keeps_the_parameter_and_its_ema_within_the_bound(optimizer):
    """``up`` starts between -0.5 and 0.5."""
    trainer = dataclasses.replace(TRAINER, optimizer=optimizer, schedule=ConstantRate(1.0))
    free, bounded = (
        stepped(Toy(), trainer),
        stepped(Bounded(on="up", project=lambda x: jnp.clip(x, -0.5, 0.5)), trainer),
    )
    assert float(jnp.abs(free.learned.params["up"]).max()) > 0.5
    assert float(jnp.abs(bounded.learned.params["up"]).max()) == 0.5
    assert float(jnp.abs(bounded.learned.ema_params["up"]).max()) <= 0.5


def test_other_parameters_are_not_projected():
    free, bounded = stepped(Toy(), steps=1), stepped(Bounded(), steps=1)
    for name in ("up", "down"):
        np.testing.assert_array_equal(free.learned.params[name], bounded.learned.params[name])
    np.testing.assert_array_equal(bounded.learned.params["bias"], np.clip(free.learned.params["bias"], -BOUND, BOUND))


def test_a_sharded_parameter_is_projected_on_its_own_devices():
    state = stepped(Bounded(), lay=layout(2, 2, 2))
    assert float(jnp.abs(state.learned.params["bias"]).max()) == np.float32(BOUND)
    assert tuple(state.learned.params["bias"].sharding.spec) == ("tensor",)


def test_a_parameter_that_is_not_trained_is_not_projected():
    trainer = dataclasses.replace(TRAINER, trainable=TrainNamed(("down", "bias")))
    task = Bounded(on="up")
    untouched = stepped(task, trainer, steps=0).learned.params["up"]
    assert float(jnp.abs(untouched).max()) > BOUND
    np.testing.assert_array_equal(stepped(task, trainer).learned.params["up"], untouched)


def test_a_constraint_that_matches_no_parameter_is_refused():
    with pytest.raises(ValueError, match=r"objective 'fit': expected a constraint on some parameter, .*'elsewhere'"):
        stepped(Bounded(on="elsewhere"))
