"""Fine-tuning of embeddings and norms only: the trained parameters of each family, and a step on eight devices."""

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.optim.ema import ConstantEma
from dalle_jax.train.optim.optimizers import AdamW
from dalle_jax.train.optim.parameter_masks import TrainEmbeddingsAndNorms
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.state import State, state_spec
from dalle_jax.train.trainer import Trainer
from tests.parallel.test_sharded_tasks import batch_of, task_of

TRAINER = Trainer(
    steps=10, schedule=ConstantRate(1e-2), optimizer=AdamW(weight_decay=0.1), ema=ConstantEma(0.5),
    trainable=TrainEmbeddingsAndNorms(),
)  # fmt: skip
LAYOUT = Layout(make_mesh(Mesh(2, 2, 2)), Rules())
NOT_CHOSEN = ("kernel", "log_scale")
CHOSEN = {
    "dalle": {"text_embedding.table", "bos", "code_positions.rows.table", "codes.embedding.table", "norm.scale"},
    "dalle_bart": {"encoder.tokens.table", "start", "positions.table", "codes.embedding.table", "embedding_norm.bias"},
    "llamagen": {"codes.embedding.table", "norm.scale"},
    "clip": {"vision.class_token", "vision.positions.table", "text.tokens.table", "text.norm_after.bias"},
    "vqgan": {"generator.codebook", "generator.encoder.norm.scale"},
}


@pytest.mark.parametrize("kind", CHOSEN)
def test_embeddings_and_norms_of_each_family_are_trained(kind):
    plan = state_spec(task_of(kind), TRAINER, LAYOUT)
    trained = {name for names in plan.trainable.values() for name in names}
    assert trained >= CHOSEN[kind]
    assert not [name for name in trained if name.endswith(NOT_CHOSEN)]
    rest = plan.abstract.learned.params.keys() - trained
    assert all(name.rsplit(".", 1)[-1] in (*NOT_CHOSEN, "bias") for name in rest)
    biases = {name for name in rest if name.endswith(".bias")}
    assert all(name.removesuffix("bias") + "kernel" in rest for name in biases)


@pytest.mark.parametrize("kind", ["tokenizer", "dvae"])
def test_families_without_embeddings_or_norms_are_refused(kind):
    with pytest.raises(UserError, match=r"trainer\.trainable: expected some of the \d+ parameters .* got none"):
        state_spec(task_of(kind), TRAINER, LAYOUT)


@pytest.mark.parametrize("kind", ["dalle", pytest.param("vqgan", marks=pytest.mark.slow)])
def test_a_sharded_step_changes_the_selected_parameters_only(kind):
    compiled = CompiledTask(task_of(kind), TRAINER, LAYOUT)
    state: State = compiled.state_spec.init_sharded(LAYOUT, 0)
    before = {name: np.asarray(value) for name, value in state.learned.params.items()}
    after, _ = compiled.step(state, None, LAYOUT.put_batch(batch_of()))
    trained = {name for names in compiled.state_spec.trainable.values() for name in names}
    for name, value in before.items():
        for moved in (after.learned.params[name], after.learned.ema_params[name]):
            assert (np.asarray(moved) == value).all() == (name not in trained), name
    moments = [leaf for one in after.learned.optimizers.values() for leaf in one[0].mu]
    assert sorted(moments) == sorted(trained)
