import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.train.optim.optimizers import Muon, matrix_dimensions, state_shardings
from dalle_jax.train.optim.parameter_masks import ParameterTraits

PARAMETERS = {
    "up": ParameterTraits(("embed", "mlp"), True),
    "qkv": ParameterTraits(("embed", None, "heads", "head_dim"), True),
    "table": ParameterTraits(("vocab", "embed"), True),
    "bias": ParameterTraits(("mlp",), False),
}


@pytest.fixture
def params() -> dict:
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = {"up": (8, 32), "qkv": (8, 3, 2, 4), "table": (5, 8), "bias": (32,)}
    return {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}


def test_updates_of_matrices_are_nearly_orthogonal_at_the_scale_of_adams(params):
    transformation = Muon().transformation(PARAMETERS)
    updates, _ = transformation.update(params, transformation.init(params), params)
    singular = np.linalg.svd(np.asarray(updates["up"]))[1]  # those of an orthogonal matrix would all be one
    assert singular.max() / singular.min() < 2
    assert 0.13 < np.sqrt(np.mean(np.asarray(updates["up"]) ** 2)) < 0.27


def test_query_key_and_value_are_separate_matrices(params):
    transformation = Muon().transformation(PARAMETERS)
    together, _ = transformation.update(params, transformation.init(params), params)
    alone = dict(params, qkv=params["qkv"].at[:, 1:].set(0.0))
    changed, _ = transformation.update(alone, transformation.init(params), params)
    np.testing.assert_allclose(together["qkv"][:, 0], changed["qkv"][:, 0], rtol=1e-4, atol=1e-6)


def test_tables_and_vectors_get_adams_update(params):
    transformation = Muon(epsilon=0.0).transformation(PARAMETERS)
    updates, _ = transformation.update(params, transformation.init(params), params)
    for name in ("table", "bias"):  # Adam's first update is the sign
        np.testing.assert_allclose(updates[name], jnp.sign(params[name]), rtol=1e-5)


def test_weight_decay_is_added_to_the_selected_parameters(params):
    with_decay, without = (Muon(weight_decay=decay).transformation(PARAMETERS) for decay in (0.5, 0.0))
    ours, _ = with_decay.update(params, with_decay.init(params), params)
    plain, _ = without.update(params, without.init(params), params)
    np.testing.assert_allclose(ours["up"] - plain["up"], 0.5 * params["up"], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(ours["bias"], plain["bias"])


def test_momentum_is_sharded_like_its_parameter(params):
    transformation = Muon().transformation(PARAMETERS)
    lies = state_shardings(transformation, params, {name: name for name in params}, "whole")
    found = sorted(set(jax.tree.leaves(lies)) - {"whole"})
    assert found == sorted(params)


@pytest.mark.parametrize(
    ("axes", "inputs", "outputs"),
    [
        (("embed", "mlp"), 0, (1,)),
        (("mlp", "embed"), (0,), 1),
        (("heads", "head_dim", "embed"), (0, 1), 2),
        (("layers", "embed", None, "heads", "head_dim"), 1, (3, 4)),
    ],
)
def test_inputs_and_outputs_of_a_matrix_follow_from_its_axes(axes, inputs, outputs):
    found = matrix_dimensions(axes)
    assert found is not None
    assert (found.reduction_axis, found.output_axis) == (inputs, outputs)


@pytest.mark.parametrize("axes", [("embed",), ("codes", "embed"), (None, "heads", "head_dim"), ("kernel", "channels")])
def test_other_parameters_are_not_treated_as_matrices(axes):
    assert matrix_dimensions(axes) is None
