from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.models.dalle import DalleConfig
from dalle_jax.models.heads.forecast_heads import ForecastHeads, ForecastHeadsConfig
from dalle_jax.models.llamagen import LlamaGenConfig
from dalle_jax.models.prompt_kinds import ByClass
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.load.forecast import add_forecast_heads
from dalle_jax.pipelines.load.model_fingerprints import fingerprint_of_model
from dalle_jax.pipelines.load.models import ModelFile, load_generator
from dalle_jax.tasks.forecast_codes import CodeForecasting, ForecastCodes, load_transformer
from dalle_jax.tasks.generate_from_conditions import GenerateFromConditions
from dalle_jax.train.checkpoints.save_weights import save_weights

MODEL = LlamaGenConfig(
    condition=ByClass(5), codebook_size=8, grid=(2, 3), width=16, depth=1, heads=2, multiple_of=8, init_std=0.4
)
KEY, STEP = jax.random.key(0), jnp.int32(0)
BATCH = {"codes": jax.random.randint(jax.random.key(3), (3, 6), 0, 8), "condition": jnp.array([0, 4, 2])}
LAYOUT = Layout(make_mesh(Mesh(1, 1, 1)), Rules())


def transformer_of(seed: int):
    """Return a LlamaGen with a random head in place of its initial zeros."""
    model = MODEL.build(nnx.Rngs(seed))
    model.codes.head.kernel[...] = jax.random.normal(jax.random.key(seed), model.codes.head.kernel.shape)
    return model


@pytest.fixture(scope="module")
def model():
    return transformer_of(0)


@pytest.fixture(scope="module")
def heads() -> ForecastHeads:
    found = ForecastHeadsConfig(8, 16, heads=2).build(nnx.Rngs(0))
    found.output.kernel[...] = jax.random.normal(jax.random.key(1), found.output.kernel.shape)
    found.code.kernel[...] = jax.random.normal(jax.random.key(2), found.code.kernel.shape)
    found.noise[...] = jnp.array([0.5, 0.2])
    return found


def task_of(model, guidance: float) -> CodeForecasting:
    config = ForecastCodes(GenerateFromConditions(MODEL), "unread", guidance=guidance)
    return CodeForecasting(config, config.generate.open_for_plan(), model, "")


@pytest.fixture(scope="module")
def outputs(model):
    """Return the outputs of the codes of the batch given their classes, and given the empty class."""
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, classes: nnx.merge(graph, state).outputs(classes, BATCH["codes"]).image)
    return run(state, BATCH["condition"]), run(state, jnp.full(3, 5))


def nats_of(scores: np.ndarray, targets: np.ndarray) -> float:
    chosen = np.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
    return float((np.log(np.exp(scores).sum(-1)) - chosen).mean())


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_head_learns_the_guided_draw_of_a_later_code_with_the_same_noise(model, heads, outputs, guidance):
    task = task_of(model, guidance)
    graph, state = nnx.split((heads, model))

    @jax.jit
    def gradient(state):
        def loss(both):
            return task.loss(both[0], {"transformer": both[1]}, BATCH, KEY, STEP)

        return nnx.value_and_grad(loss, has_aux=True)(nnx.merge(graph, state))

    (loss, sums), (of_heads, of_model) = gradient(state)
    codes, noise = np.asarray(BATCH["codes"]), np.asarray(jax.random.gumbel(KEY, (3, 6, 8)))
    kernel = np.asarray(model.codes.head.kernel[...])
    with_class, without = (np.asarray(one) @ kernel for one in outputs)
    drawn = (without + guidance * (with_class - without) + noise).argmax(-1)
    nats = []
    for t in (1, 2):
        own = np.asarray(outputs[0]) @ np.asarray(heads.output.kernel[:, t - 1])
        own += np.asarray(model.codes.embedding.table[...])[codes] @ np.asarray(heads.code.kernel[:, t - 1])
        scores, target = own[:, :-t] + (0.5, 0.2)[t - 1] * noise[:, t:], drawn[:, t:]
        nats.append(nats_of(scores, target))
        assert sums[f"right_{t}"] == ((scores.argmax(-1) == target).sum(), target.size)
        assert sums[f"copied_{t}"] == ((codes[:, :-t] == target).sum(), target.size)
    np.testing.assert_allclose(loss, np.mean(nats), rtol=1e-5)
    assert all((np.asarray(one) != 0).any() for one in jax.tree.leaves(of_heads))
    assert all((np.asarray(one) == 0).all() for one in jax.tree.leaves(of_model))


@pytest.fixture(scope="module")
def folders(tmp_path_factory, model, heads):
    """Return the folders of two transformers of other weights, and of heads of the first one."""
    out = tmp_path_factory.mktemp("forecast")
    text = render(ModelFile(MODEL))
    for name, one in (("first", model), ("second", transformer_of(1))):
        save_weights(out / name, one, text, {"model.gin": text.encode()})
    task = task_of(model, guidance=1.0)
    task = replace(task, fingerprint=fingerprint_of_model(out / "first"))
    save_weights(out / "heads", heads, "", task.model_files())
    return out


def test_saved_heads_are_loaded_only_for_their_own_transformer(folders, heads):
    loaded = load_generator(folders / "first")
    add_forecast_heads(loaded, folders / "first", folders / "heads", LAYOUT)
    for found, expected in zip(
        jax.tree.leaves(nnx.state(loaded.forecast_heads)), jax.tree.leaves(nnx.state(heads)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(
        UserError, match=r"heads: expected forecasting heads of the transformer in .*second .*got those"
    ):
        add_forecast_heads(load_generator(folders / "second"), folders / "second", folders / "heads")
    with pytest.raises(UserError, match="expected a ForecastHeads, got a LlamaGen"):
        add_forecast_heads(loaded, folders / "first", folders / "first")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(MODEL, width=32, scan=True), r"first \(task.generate.model.width: expected 16, got 32\)"),
        (DalleConfig(9, 3, 8, (2, 3), 16, 1, 2), "task.generate.model: expected @LlamaGenConfig, got @DalleConfig"),
    ],
)
def test_a_transformer_that_is_not_the_one_of_the_config_is_refused(folders, other, message):
    with pytest.raises(UserError, match=message):
        load_transformer(str(folders / "first"), other, LAYOUT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"heads": 6}, "heads: expected 1 to 5"), ({"guidance": -1.0}, "guidance: expected 0 or more")],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ForecastCodes(GenerateFromConditions(MODEL), "unread", **changes)
