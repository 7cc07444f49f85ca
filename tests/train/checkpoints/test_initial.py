"""Fine-tuning: runs that start from the weights of a different run."""

import jax
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.train.checkpoints.save_weights import save_weights
from dalle_jax.train.optim.ema import ConstantEma
from dalle_jax.train.optim.parameter_masks import TrainNamed
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.state import ModuleSpec
from tests.train.runs import run
from tests.train.toy import Model, Toy


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Return a folder with weights only, and its parameters."""
    folder = tmp_path_factory.mktemp("imported")
    module = Model(8, nnx.Rngs(7))
    module.mean[...] = jax.numpy.full((4,), 3.0)
    save_weights(folder, module, "", {"model.gin": b"# a toy\n"})
    return folder, ModuleSpec.of(module).split(module)[0]


def test_a_run_starts_from_the_initial_weights(imported, tmp_path):
    """With a rate of zero they are there at the end: parameters, average and what is no parameter."""
    folder, params = imported
    this = run(tmp_path, initial=str(folder), steps=1, ema=ConstantEma(0.5), schedule=ConstantRate(0.0))
    for name, value in params.items():
        np.testing.assert_array_equal(np.asarray(this.state.learned.params[name]), np.asarray(value), err_msg=name)
        np.testing.assert_allclose(
            np.asarray(this.state.learned.ema_params[name]), np.asarray(value), rtol=1e-6, err_msg=name
        )
    assert float(this.state.learned.non_params["mean"].min()) > 2  # 0.9 of 3, and a tenth of the batch's
    again = run(tmp_path, initial=str(folder), steps=2, ema=ConstantEma(0.5), schedule=ConstantRate(0.0))
    assert int(again.state.counted.step) == 2  # it goes on with its own


def test_parameters_that_are_not_trained_keep_the_initial_weights(imported, tmp_path):
    folder, params = imported
    chosen = TrainNamed(("down",))
    this = run(tmp_path, initial=str(folder), steps=3, ema=ConstantEma(0.5), trainable=chosen)
    for name, value in params.items():
        for end in (this.state.learned.params[name], this.state.learned.ema_params[name]):
            assert (np.asarray(end) == np.asarray(value)).all() == (name != "down"), name


def test_weights_of_a_different_model_are_refused(imported, tmp_path):
    with pytest.raises(UserError, match="is of a different model"):
        run(tmp_path, task=Toy(width=16), initial=str(imported[0]))
