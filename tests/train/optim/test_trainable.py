"""Fine-tuning of some parameters: the others keep their bits and have no optimizer moments."""

import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.layers.embeddings import Embedding
from dalle_jax.layers.linear import Linear
from dalle_jax.layers.norms import LayerNorm
from dalle_jax.parallel.axes import EMBED, MLP, VOCAB
from dalle_jax.train.optim.ema import ConstantEma
from dalle_jax.train.optim.optimizers import Adafactor, AdamW, Lion, Muon
from dalle_jax.train.optim.parameter_masks import TrainAll, TrainEmbeddingsAndNorms, TrainNamed
from dalle_jax.train.optim.schedules import ConstantRate
from tests.train.runs import LINES, StopsAt, run
from tests.train.toy import layout, leaves

SOME = TrainNamed(("*",), but=("up",))
DECAY = 0.1


def parameters(module: nnx.Module) -> dict:
    return {".".join(map(str, path)): one for path, one in nnx.to_flat_state(nnx.state(module, nnx.Param))}


@pytest.mark.parametrize(
    "optimizer",
    [AdamW(weight_decay=DECAY), Adafactor(weight_decay=DECAY), Lion(weight_decay=DECAY), Muon(weight_decay=DECAY)],
    ids=lambda one: type(one).__name__,
)
def test_parameters_that_are_not_trained_keep_their_bits_and_have_no_moments(tmp_path, optimizer):
    changes = {"optimizer": optimizer, "ema": ConstantEma(0.5), "schedule": ConstantRate(1e-2), "trainable": SOME}
    this = run(tmp_path, steps=3, **changes)
    initial, end = this.compiled.state_spec.init_sharded(this.layout, this.trainer.seed), this.state
    for state in (end.learned.params, end.learned.ema_params):
        np.testing.assert_array_equal(np.asarray(state["up"]), np.asarray(initial.learned.params["up"]))
        assert np.abs(np.asarray(state["down"]) - np.asarray(initial.learned.params["down"])).min() > 0
    moments = leaves(end.learned.optimizers)
    assert any("'down'" in name for name in moments)
    assert not [name for name in moments if "'up'" in name]


def test_the_log_counts_the_trained_parameters(tmp_path, capsys):
    run(tmp_path / "some", steps=1, trainable=SOME)
    assert "trains 2 of 3 parameter arrays, which have 16 of 48 values" in capsys.readouterr().err
    run(tmp_path / "all", steps=1, trainable=TrainAll())
    assert "trains" not in capsys.readouterr().err


def test_the_gradient_norm_is_over_trained_parameters(tmp_path):
    norms = [run(tmp_path / name, steps=1, trainable=TrainNamed(of)).metrics for name, of in NORMS.items()]
    part, rest, whole = (one["train/gradient_norm/fit"] for one in norms)
    assert part**2 + rest**2 == pytest.approx(whole**2, rel=1e-5)


NORMS = {"part": ("up",), "rest": ("down", "bias"), "whole": ("*",)}


def test_a_resumed_run_equals_one_that_never_stopped(tmp_path):
    whole = run(tmp_path / "whole", trainable=SOME)
    with pytest.raises(Exception, match="the disk is gone"):
        run(tmp_path / "stopped", data=StopsAt(step=12), trainable=SOME)
    resumed = run(tmp_path / "stopped", data=LINES, trainable=SOME)
    assert resumed.start == 10
    assert leaves(resumed.state) == leaves(whole.state)


def test_a_run_resumes_only_with_the_same_trainable_parameters(tmp_path):
    run(tmp_path, steps=2, trainable=SOME)
    with pytest.raises(UserError, match=r"different model or optimizer: optimizers .*'up'.* is not in the checkpoint"):
        run(tmp_path, steps=4, trainable=TrainAll())


def test_eight_devices_train_the_selected_parameters_as_one_does(tmp_path):
    here = run(tmp_path / "one", steps=3, trainable=SOME)
    many = run(tmp_path / "many", steps=3, trainable=SOME, lay=layout(2, 2, 2))
    for name, value in here.state.learned.params.items():
        np.testing.assert_allclose(np.asarray(many.state.learned.params[name]), np.asarray(value), rtol=1e-5, atol=1e-7)
    assert leaves(many.state.learned.params["up"]) == leaves(here.state.learned.params["up"])


class Small(nnx.Module):
    """A module with one variable of each kind."""

    def __init__(self, rngs: nnx.Rngs):
        self.tokens = Embedding(6, 4, axis=VOCAB, rngs=rngs)
        self.norm = LayerNorm(4, scale=False)
        self.up = Linear(4, 8, axes=(EMBED, MLP), rngs=rngs)


def test_embeddings_and_norms_are_recognised_by_their_class():
    chosen = TrainEmbeddingsAndNorms().select(parameters(Small(nnx.Rngs(0))))
    assert chosen == {"tokens.table", "norm.bias"}


def test_a_choice_that_trains_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"some of the 3 parameters of the objective 'fit', got none of them"):
        run(tmp_path, trainable=TrainEmbeddingsAndNorms())
    with pytest.raises(UserError, match=r"trainer\.trainable: expected patterns that match a parameter, got 'dwn'"):
        run(tmp_path, trainable=TrainNamed(("dwn", "up")))
