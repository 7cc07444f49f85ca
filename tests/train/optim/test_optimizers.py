"""Every number of an optimizer has an effect: changing it changes the third update."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.train.optim.optimizers import Adafactor, AdamW, Lion, Muon, Optimizer
from dalle_jax.train.optim.parameter_masks import ParameterTraits

PARAMETERS = {"up": ParameterTraits(("embed", "mlp"), True), "table": ParameterTraits(("vocab", "embed"), True)}
SHAPES = {"up": (8, 32), "table": (5, 8)}
CHANGES = [
    (AdamW(), {"beta1": 0.5, "beta2": 0.5, "epsilon": 1e-2, "weight_decay": 0.1, "first_moment": "bfloat16"}),
    (Adafactor(factored_from=8), {"decay": 0.5, "clipping": 0.1, "factored_from": 64, "weight_decay": 0.1}),
    (Lion(), {"beta1": 0.1, "beta2": 0.1, "weight_decay": 0.1}),
    (Muon(), {"momentum": 0.5, "beta1": 0.5, "beta2": 0.5, "epsilon": 1e-2, "weight_decay": 0.1}),
]


def draw(step: int) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(step), len(SHAPES))
    return {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, SHAPES.items(), strict=True)}


def third_update(optimizer: Optimizer) -> np.ndarray:
    transformation, params = optimizer.transformation(PARAMETERS), draw(0)
    state = transformation.init(params)
    for step in (1, 2, 3):
        updates, state = transformation.update(draw(step), state, params)
    return np.concatenate([np.ravel(jnp.asarray(update)) for update in jax.tree.leaves(updates)])


@pytest.mark.parametrize(
    ("optimizer", "change"),
    [(optimizer, {name: value}) for optimizer, changes in CHANGES for name, value in changes.items()],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else type(value).__name__,
)
def test_each_number_of_an_optimizer_changes_its_updates(optimizer, change):
    plain, changed = third_update(optimizer), third_update(dataclasses.replace(optimizer, **change))
    assert np.isfinite(changed).all()
    assert np.abs(changed - plain).max() > 1e-4 * np.abs(plain).max()


def test_all_numbers_of_the_optimizers_are_tested():
    for optimizer, changes in CHANGES:
        assert changes.keys() == {field.name for field in dataclasses.fields(optimizer)}


def test_adafactor_updates_each_layer_of_a_scan_as_a_parameter_of_its_own():
    layers, optimizer = 3, Adafactor(factored_from=8)
    keys = jax.random.split(jax.random.key(0), 3)
    scale = jnp.array([1.0, 10.0, 0.1])[:, None, None]  # layers differ in size, so a common scale would differ
    value, *gradients = (scale * jax.random.normal(key, (layers, 8, 32)) for key in keys)
    bias = jnp.ones((layers, 32))
    axes = {"kernel": ("embed", "mlp"), "bias": ("mlp",)}
    stacked = optimizer.transformation({name: ParameterTraits(one, True, stacked=1) for name, one in axes.items()})
    alone = optimizer.transformation({name: ParameterTraits(one, True) for name, one in axes.items()})

    def second_update(transformation, cut):
        params = {"kernel": cut(value), "bias": cut(bias)}
        state = transformation.init(params)
        for gradient in gradients:
            grads = {"kernel": cut(gradient), "bias": cut(gradient[:, 0])}
            updates, state = transformation.update(grads, state, params)
        return updates, state

    whole, state = second_update(stacked, lambda array: array)
    for layer in range(layers):
        expected, _ = second_update(alone, lambda array, layer=layer: array[layer])
        for name in axes:
            np.testing.assert_allclose(whole[name][layer], expected[name], rtol=1e-5)
    rows = {leaf.shape for leaf in jax.tree.leaves(state["layers"]["kernel"])}
    assert {(layers, 8), (layers, 32)} <= rows and (layers, 8, 32) not in rows
