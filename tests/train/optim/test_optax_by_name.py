import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.train.optim.optax_by_name import NAMES, Optax, numeric_settings
from dalle_jax.train.optim.optimizers import AdamW, state_shardings
from dalle_jax.train.optim.parameter_masks import ParameterTraits
from dalle_jax.train.trainer import Trainer

PARAMETERS = {"up": ParameterTraits(("embed", "mlp"), True), "bias": ParameterTraits(("mlp",), False)}
RATE = 0.01


def params() -> dict:
    return {"up": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "bias": jnp.asarray([0.5, -0.3, 0.2])}


def gradients(step: int) -> dict:
    draw = np.random.default_rng(step).standard_normal
    return {"up": jnp.asarray(draw((4, 3)), jnp.float32), "bias": jnp.asarray(draw(3), jnp.float32)}


def moved(transformation, scale: float, steps: int = 3) -> dict:
    """Return the parameters after some steps, each ``scale`` times the transformation's update."""
    values = params()
    state = transformation.init(values)
    for step in range(steps):
        updates, state = transformation.update(gradients(step), state, values)
        values = {name: value + scale * updates[name] for name, value in values.items()}
    return values


@pytest.mark.parametrize("name", NAMES)
def test_at_a_constant_rate_each_optimizer_equals_optaxs_own(name):
    own = {"weight_decay": 0.0} if "weight_decay" in inspect.signature(NAMES[name]).parameters else {}
    ours = moved(Optax(name).transformation(PARAMETERS), -RATE)
    theirs = moved(NAMES[name](learning_rate=RATE, **own), 1.0)
    for one in ours:
        np.testing.assert_allclose(ours[one], theirs[one], rtol=1e-5, atol=1e-7)
    assert float(jnp.abs(ours["up"] - params()["up"]).max()) > 1e-6


@pytest.mark.parametrize("name", ["lars", "sgd"])
def test_momentum_is_accumulated_before_the_rate_is_applied(name):
    transformation = Optax(name, (("momentum", 0.5),)).transformation(PARAMETERS)
    state, found = transformation.init(params()), []
    for step in range(2):
        direction, state = transformation.update(gradients(step), state, params())
        found.append(direction["bias"])
    alone = Optax(name, (("momentum", 0.0),)).transformation(PARAMETERS)
    second, _ = alone.update(gradients(1), alone.init(params()), params())
    np.testing.assert_allclose(found[1], 0.5 * found[0] + second["bias"], rtol=1e-5)


def test_settings_reach_the_optimizer():
    ours = moved(Optax("adam", (("b1", 0.5), ("nesterov", True))).transformation(PARAMETERS), -RATE)
    theirs = moved(optax.adam(RATE, b1=0.5, nesterov=True), 1.0)
    np.testing.assert_allclose(ours["up"], theirs["up"], rtol=1e-5)
    assert float(jnp.abs(ours["up"] - moved(optax.adam(RATE), 1.0)["up"]).max()) > 1e-4


@pytest.mark.parametrize("name", ["lamb", "adagrad"])
def test_weight_decay_applies_to_the_selected_parameters_only(name):
    with_decay = moved(Optax(name, weight_decay=0.5).transformation(PARAMETERS), -RATE, steps=1)
    without = moved(Optax(name).transformation(PARAMETERS), -RATE, steps=1)
    np.testing.assert_array_equal(with_decay["bias"], without["bias"])
    assert float(jnp.abs(with_decay["up"] - without["up"]).max()) > 1e-4


def test_lamb_applies_weight_decay_before_the_trust_ratio():
    ours = moved(Optax("lamb", weight_decay=0.5).transformation(PARAMETERS), -RATE)
    theirs = moved(optax.lamb(RATE, weight_decay=0.5, mask={"up": True, "bias": False}), 1.0)
    np.testing.assert_allclose(ours["up"], theirs["up"], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adamm", (), "expected one of acprop, .*yogi, got 'adamm'; did you mean adam"),
        ("lamb", (("beta1", 0.9),), r"expected arguments of lamb \(b1, b2, eps, eps_root\), got 'beta1'"),
        ("adam", (("nesterov", 1.0),), "expected True or False for nesterov of adam, got 1.0"),
        ("adam", (("b1", True),), "expected a number for b1 of adam, got True"),
        ("adam", (("b1", 0.9), ("b1", 0.8)), "expected each name once, got 'b1' more than once"),
        ("sign_sgd", (("b1", 0.9),), r"arguments of sign_sgd \(none\)"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_names(name, settings, message):
    with pytest.raises(ValueError, match=message):
        Optax(name, settings)


def test_every_listed_setting_is_accepted():
    for name in NAMES:
        settings = {one: 0.9 if value is None else value for one, value in numeric_settings(name).items()}
        made = Optax(name, tuple(settings.items())).transformation(PARAMETERS)
        assert jax.tree.leaves(made.init(params())) is not None


def test_a_config_of_an_optax_optimizer_renders_back_to_itself():
    text = "steps = 3\nschedule = @ConstantRate\nschedule.rate = 1e-3\noptimizer = @Optax\noptimizer.name = 'lamb'\n"
    trainer = loads(text + "optimizer.settings = [('b1', 0.8), ('eps', 1)]\n", Trainer)
    assert trainer.optimizer == Optax("lamb", (("b1", 0.8), ("eps", 1)))
    assert loads(render(trainer), Trainer) == trainer
    with pytest.raises(UserError, match=r"optimizer \(Optax\): settings: expected arguments of lamb .* got 'b3'"):
        loads(text + "optimizer.settings = [('b3', 0.8)]\n", Trainer)


@pytest.mark.parametrize("name", NAMES)
def test_moments_are_sharded_like_their_parameter(name):
    lies = {"up": P("fsdp", "tensor"), "bias": P("tensor")}
    transformation = Optax(name).transformation(PARAMETERS)
    found = state_shardings(transformation, params(), lies, P())
    specs = jax.tree_util.tree_leaves_with_path(found, is_leaf=lambda leaf: isinstance(leaf, P))
    moments = jax.tree_util.tree_leaves_with_path(transformation.init(params()))
    for (path, spec), (_, leaf) in zip(specs, moments, strict=True):
        of = next((one for one in lies if jax.tree_util.DictKey(one) in path), None)
        whole = of is None or leaf.shape != params()[of].shape
        assert spec == (P() if whole else lies[of]), (path, leaf.shape)


def test_the_first_moment_of_adamw_may_be_stored_in_16_bits():
    half = AdamW(first_moment="bfloat16").transformation(PARAMETERS)
    (adam,) = jax.tree.leaves(half.init(params()), is_leaf=lambda one: hasattr(one, "mu"))
    assert {leaf.dtype.name for leaf in adam.mu.values()} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in adam.nu.values()} == {"float32"}
    whole = moved(AdamW().transformation(PARAMETERS), -RATE)
    np.testing.assert_allclose(moved(half, -RATE)["up"], whole["up"], atol=RATE * 3 * 2**-8)
