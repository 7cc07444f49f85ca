"""Gradients in microbatches: embeddings are cached over two passes, variables are set once, the rest is refused."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.microbatches import join, split
from dalle_jax.train.optim.optimizers import AdamW
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.task import CachedEmbeddings, Objective, WholeBatchOnly
from dalle_jax.train.trainer import Trainer
from tests.train.toy import Lines, Toy, layout

TRAINER = Trainer(steps=10, schedule=ConstantRate(1e-2), optimizer=AdamW(beta1=0.0))


def stepped(task: Any, accumulate: int, rows: int = 16, lay: Any = None) -> tuple[Any, dict[str, np.ndarray], float]:
    """Return the state after one step, its gradients (the first moment with beta1 = 0) and its loss."""
    lay = lay or layout()
    compiled = CompiledTask(task, dataclasses.replace(TRAINER, accumulate=accumulate), lay)
    batch = lay.put_batch(task.prepare(Lines(rows=rows).batch(0, range(rows)), None))
    state, sums = compiled.step(compiled.state_spec.init_sharded(lay, 0), None, batch)
    moments = [optimizer.mu for optimizer in state.learned.optimizers.values()]
    gradients = {name: np.asarray(value) for one in moments for name, value in one.items()}
    return state, gradients, float(sums["loss"][0] / sums["loss"][1])


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Compare arrays to 1e-5 of the largest entry of each."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5 * np.abs(value).max(), rtol=0, err_msg=name)


@dataclasses.dataclass(frozen=True)
class Pairs(Toy):
    """A task in which each row should be nearest to its own target; only the loss uses ``down``."""

    dropped: float = 0.0
    sets: bool = False

    def objectives(self) -> tuple[Objective, ...]:
        parts = CachedEmbeddings(self.embed, self.loss_of_embeddings)
        return (Objective("pairs", nnx.Param, self.loss, microbatches=parts),)

    def loss(self, module: Any, frozen: Any, batch: Any, key: Any, step: Any) -> Any:
        return self.loss_of_embeddings(module, self.embed(module, frozen, batch, key, step), batch, key, step)

    def embed(self, module: Any, frozen: Any, batch: Any, key: Any, step: Any) -> Any:
        if self.sets:
            module.see(batch["x"])
        hidden = jnp.tanh(batch["x"] @ module.up[...] + module.bias[...])
        return {"hidden": hidden * jax.random.bernoulli(key, 1 - self.dropped, hidden.shape)}

    def loss_of_embeddings(self, module: Any, embeddings: Any, batch: Any, key: Any, step: Any) -> Any:
        module.see(batch["x"])
        logits = embeddings["hidden"] @ (module.down[...] * batch["y"]) * 3  # [B B]
        loss = -jnp.diagonal(jax.nn.log_softmax(logits)).mean()
        return loss, {"loss": (loss, 1)}


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_a_loss_over_all_pairs_equals_that_of_the_whole_batch(accumulate):
    whole, parts = stepped(Pairs(), 1), stepped(Pairs(), accumulate)
    assert parts[2] == pytest.approx(whole[2], rel=1e-6)
    assert_equal(parts[1], whole[1])
    np.testing.assert_array_equal(parts[0].learned.non_params["count"], 16)
    np.testing.assert_allclose(parts[0].learned.non_params["mean"], whole[0].learned.non_params["mean"], rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 2, 2), (8, 1, 1)])
def test_a_loss_over_all_pairs_on_eight_devices_equals_that_on_one(shape):
    one, many = stepped(Pairs(), 1), stepped(Pairs(), 2, lay=layout(*shape))
    assert many[2] == pytest.approx(one[2], rel=1e-6)
    assert_equal(many[1], one[1])


def test_both_passes_draw_the_same_random_numbers():
    """By hand: the gradient through rows that are dropped with the keys of their microbatches."""
    task = Pairs(dropped=0.5)
    lay = layout()
    compiled = CompiledTask(task, TRAINER, lay)
    state = compiled.state_spec.init_sharded(lay, 0)
    batch = lay.put_batch(task.prepare(Lines(rows=16).batch(0, range(16)), None))
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(TRAINER.seed), 0), 0)  # of step 0 and objective 0
    dealt = split(batch, 4)

    def loss(params: Any) -> Any:
        module = compiled.state_spec.module_spec.merge(params, state.learned.non_params)
        rows = [
            task.embed(module, None, {name: one[part] for name, one in dealt.items()}, jax.random.fold_in(key, part), 0)
            for part in range(4)
        ]
        embeddings = jax.tree.map(lambda *parts: join(jnp.stack(parts)), *rows)
        return task.loss_of_embeddings(module, embeddings, batch, key, 0)[0]

    wanted = {name: np.asarray(value) for name, value in jax.grad(loss)(state.learned.params).items()}
    assert_equal(stepped(task, 4)[1], wanted)


def test_joining_inverts_splitting():
    rows = jnp.arange(24).reshape(12, 2)
    np.testing.assert_array_equal(split({"rows": rows}, 3)["rows"][1], rows[1::3])
    np.testing.assert_array_equal(join(split(rows, 3)), rows)


def test_a_loss_that_sets_variables_once_for_each_microbatch_is_refused():
    class Silent(Toy):
        def objectives(self) -> tuple[Objective, ...]:
            return (Objective("fit", nnx.Param, self.loss),)

    message = r"trainer\.accumulate: expected 1, since the loss of the objective '{}' changes count, mean"
    with pytest.raises(UserError, match=message.format("fit")):
        stepped(Silent(), 2)
    with pytest.raises(UserError, match=message.format("pairs")):
        stepped(Pairs(sets=True), 2)
    assert int(stepped(Silent(), 1)[0].learned.non_params["count"]) == 16


def test_an_objective_that_needs_the_whole_batch_is_refused_with_its_reason():
    class Whole(Toy):
        def objectives(self) -> tuple[Objective, ...]:
            return (Objective("fit", nnx.Param, self.loss, microbatches=WholeBatchOnly("rows are sorted")),)

    with pytest.raises(UserError, match=r"trainer\.accumulate: expected 1 for the objective 'fit', got 2: rows are"):
        stepped(Whole(), 2)
    assert np.isfinite(stepped(Whole(), 1)[2])
