import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from dalle_jax.config.errors import UserError
from dalle_jax.layers.linear import project
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.optim.ema import ConstantEma, PeriodicEma, WarmedEma
from dalle_jax.train.optim.optimizers import Adafactor, AdamW, Lion
from dalle_jax.train.optim.parameter_masks import DecayMatrices, DecayNamed, RateFactors
from dalle_jax.train.optim.schedules import ConstantRate, PlateauRate
from dalle_jax.train.step import clip_by_norm
from dalle_jax.train.task import Objective
from dalle_jax.train.trainer import Trainer
from tests.train.toy import Lines, Toy, layout, leaves

TOY = Toy()
TRAINER = Trainer(steps=20, schedule=ConstantRate(1e-2))


def batch_of(lay, step=0, bad=(), rows=8):
    return lay.put_batch(Toy().prepare(Lines(rows=rows, bad=bad).batch(step, range(rows)), None))


def started(task=TOY, trainer=TRAINER, lay=None):
    lay = lay or layout()
    compiled = CompiledTask(task, trainer, lay)
    return compiled, compiled.state_spec.init_sharded(lay, 0), lay


def host(tree):
    return jax.tree.map(np.array, tree)


@dataclasses.dataclass(frozen=True)
class TwoObjectives(Toy):
    second: float = 1.0
    starts: int = 0

    def objectives(self):
        return (
            Objective("first", nnx.PathContains("up"), self.loss),
            Objective("second", nnx.PathContains("down"), self.second_loss, starts=self.starts),
        )

    def second_loss(self, module, frozen, batch, key, step):
        value, sums = self.loss(module, frozen, batch, key, step)
        return self.second * value, {"second": sums["loss"]}


def test_non_params_set_by_the_loss_are_carried_to_the_next_step():
    compiled, state, lay = started()
    batch = batch_of(lay)
    state, _ = compiled.step(state, None, batch)
    state, _ = compiled.step(state, None, batch)
    assert int(state.learned.non_params["count"]) == 16
    np.testing.assert_allclose(state.learned.non_params["mean"], 0.19 * np.asarray(batch["x"]).mean(0), rtol=1e-5)


def test_a_batch_that_is_not_finite_leaves_the_state_unchanged_and_is_counted():
    compiled, state, lay = started(trainer=dataclasses.replace(TRAINER, ema=ConstantEma(0.9)))
    state, sums = compiled.step(state, None, batch_of(lay))
    before = leaves(state.learned)
    state, sums = compiled.step(state, sums, batch_of(lay, bad=(0,)))
    assert leaves(state.learned) == before
    assert (int(state.counted.step), int(state.counted.skipped), int(state.counted.skipped_in_a_row)) == (2, 1, 1)
    assert float(sums["skipped"][0]) == 1 and float(sums["skipped"][1]) == 2
    assert float(sums["loss"][1]) == 8 and np.isfinite(float(sums["loss"][0]))
    state, sums = compiled.step(state, sums, batch_of(lay))
    assert (int(state.counted.skipped), int(state.counted.skipped_in_a_row)) == (1, 0)


class Projected(Toy):
    """The toy, whose hidden layer is a bfloat16 product of layers/linear.py."""

    def errors(self, module, frozen, batch, key, step):
        hidden = jnp.tanh(project(batch["x"].astype(jnp.bfloat16), module.up[...], 1))
        squared = ((hidden @ module.down[...])[:, 0] - batch["y"]) ** 2
        return squared.mean(), {"loss": (squared.sum(), squared.size)}, batch["x"]


def test_the_reduce_dtype_of_the_trainer_is_that_of_the_gradients_of_a_step():
    products = {}
    for dtype in ("float32", "bfloat16"):
        trainer = dataclasses.replace(TRAINER, reduce_dtype=dtype)
        compiled, state, lay = started(Projected(), trainer)
        traced = compiled._step.trace(state, compiled._frozen, batch_of(lay), compiled._key)
        products[dtype] = str(traced.jaxpr).count("preferred_element_type=float32")
    assert products["float32"] > products["bfloat16"]


def test_a_second_objective_that_is_not_finite_undoes_the_first_update_too():
    compiled, state, lay = started(TwoObjectives(second=float("nan")))
    before = leaves(state.learned.params)
    state, _ = compiled.step(state, None, batch_of(lay))
    assert leaves(state.learned.params) == before


def test_two_objectives_move_only_their_own_parameters():
    compiled, state, lay = started(TwoObjectives(second=0.0))
    before = host(state.learned.params)
    state, sums = compiled.step(state, None, batch_of(lay))
    assert not np.array_equal(state.learned.params["up"], before["up"])
    np.testing.assert_array_equal(state.learned.params["down"], before["down"])
    np.testing.assert_array_equal(state.learned.params["bias"], before["bias"])
    assert {"gradient_norm/first", "gradient_norm/second", "loss", "second"} <= sums.keys()
    assert state.learned.optimizers["first"].mu.keys() == {"up"} and state.learned.optimizers["second"].mu.keys() == {
        "down"
    }


def test_an_objective_is_not_computed_before_its_start_and_then_like_any_other():
    batch = batch_of(layout())
    compiled, state, _ = started(TwoObjectives(starts=2))
    for _ in range(2):
        before = host(state)
        state, sums = compiled.step(state, None, batch)
        np.testing.assert_array_equal(state.learned.params["down"], before.learned.params["down"])
        assert not np.array_equal(state.learned.params["up"], before.learned.params["up"])
        assert float(sums["second"][1]) == 0
    assert int(state.learned.non_params["count"]) == 16  # the first objective's rows alone
    always = started(TwoObjectives())[0]
    copy = jax.tree.map(jnp.array, state)
    for found, expected in zip(
        jax.tree.leaves(compiled.step(state, None, batch)), jax.tree.leaves(always.step(copy, None, batch)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert compiled.compiles()["step"] == 1


@dataclasses.dataclass(frozen=True)
class ShowsVariables(Toy):
    def evaluate(self, module, frozen, batch, key):
        return {"up": (module.up.sum(), 1.0), "count": (module.count[...], 1.0), "mean": (module.mean.sum(), 1.0)}


def test_an_ema_has_the_averaged_parameters_and_the_variables_of_the_last_step():
    compiled, state, lay = started(ShowsVariables(), dataclasses.replace(TRAINER, ema=ConstantEma(0.9)))
    batch = batch_of(lay)
    for _ in range(3):
        state, _ = compiled.step(state, None, batch)
    found = compiled.evaluate(state, batch, 0)
    learned = state.learned
    np.testing.assert_allclose(found["up"][0], np.sum(learned.ema_params["up"]), rtol=1e-5)
    assert abs(float(found["up"][0] - np.sum(learned.params["up"]))) > 1e-4
    assert float(found["count"][0]) == 24
    np.testing.assert_allclose(found["mean"][0], np.sum(learned.non_params["mean"]), rtol=1e-6)


def test_an_objective_that_trains_nothing_is_refused():
    class Nothing(Toy):
        def objectives(self):
            return (Objective("none", nnx.PathContains("elsewhere"), self.loss),)

    with pytest.raises(ValueError, match="expected a filter that matches a parameter"):
        started(Nothing())


def test_four_microbatches_equal_the_full_batch():
    results = []
    for parts in (1, 4):
        compiled, state, lay = started(trainer=dataclasses.replace(TRAINER, accumulate=parts, clip_norm=0.5))
        state, sums = compiled.step(state, None, batch_of(lay))
        results.append(
            (
                host(state.learned.params),
                host(state.learned.non_params),
                host(sums["loss"]),
                host(sums["gradient_norm/fit"]),
            )
        )
        assert int(state.learned.non_params["count"]) == 8
    for one, four in zip(jax.tree.leaves(results[0]), jax.tree.leaves(results[1]), strict=True):
        np.testing.assert_allclose(one, four, rtol=1e-5, atol=1e-7)


def test_a_batch_that_microbatches_do_not_divide_is_refused():
    compiled, state, lay = started(trainer=dataclasses.replace(TRAINER, accumulate=3))
    expected = r"got 8; set data\.batch_size to 6 or 9, or trainer\.accumulate to 1 or 2"
    with pytest.raises(UserError, match=expected):
        compiled.step(state, None, batch_of(lay))


def test_adamw_equals_values_computed_by_hand():
    decay = AdamW(beta1=0.9, beta2=0.99, weight_decay=0.1)
    compiled, state, lay = started(trainer=dataclasses.replace(TRAINER, optimizer=decay))
    before, batch = host(state.learned.params), batch_of(lay)

    def loss(params):
        hidden = jnp.tanh(batch["x"] @ params["up"] + params["bias"])
        return jnp.mean(((hidden @ params["down"])[:, 0] - batch["y"]) ** 2)

    grads = host(jax.grad(loss)(before))
    state, _ = compiled.step(state, None, batch)
    for name, decayed in {"up": 0.1, "down": 0.1, "bias": 0.0}.items():
        expected = before[name] - 1e-2 * (grads[name] / (np.abs(grads[name]) + 1e-8) + decayed * before[name])
        np.testing.assert_allclose(state.learned.params[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", [AdamW(), Adafactor(factored_from=2), Lion(weight_decay=0.01)])
def test_every_optimizer_lowers_the_loss(optimizer):
    compiled, state, lay = started(trainer=dataclasses.replace(TRAINER, optimizer=optimizer))
    batch, losses = batch_of(lay), []
    for _ in range(20):
        state, sums = compiled.step(state, None, batch)
        losses.append(float(sums["loss"][0]))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("ema", "decays"),
    [
        (ConstantEma(0.9), [0.9] * 5),
        (WarmedEma(0.15), [1 / 10, 0.15, 0.15, 0.15, 0.15]),
        (PeriodicEma(0.9, every=2), [1.0, 0.9, 1.0, 0.9, 1.0]),
    ],
)
def test_the_ema_equals_values_computed_by_hand(ema, decays):
    compiled, state, lay = started(trainer=dataclasses.replace(TRAINER, ema=ema))
    average = host(state.learned.params)["up"]
    for step, decay in enumerate(decays):
        before = host(state.learned.ema_params)["up"]
        state, _ = compiled.step(state, None, batch_of(lay, step))
        average = decay * average + (1 - decay) * np.asarray(state.learned.params["up"])
        np.testing.assert_allclose(state.learned.ema_params["up"], average, rtol=1e-5)
        assert np.array_equal(state.learned.ema_params["up"], before) == (decay == 1.0)


def test_an_ema_over_no_steps_is_refused():
    with pytest.raises(ValueError, match="every: expected at least 1 step, got 0"):
        PeriodicEma(every=0)


def test_the_rate_falls_when_the_loss_does_not_and_a_bad_batch_does_not_count():
    plateau = PlateauRate(1e-6, window=1, patience=2, threshold=0.5)
    compiled, state, lay = started(trainer=dataclasses.replace(TRAINER, schedule=plateau))
    rates = []
    for step in range(6):
        state, sums = compiled.step(state, None, batch_of(lay, 0, bad=(0,) if step == 1 else ()))
        rates.append(float(sums["learning_rate"][0]))
    # The first loss is the best; two good steps without a better one follow, with the bad one among them.
    np.testing.assert_allclose(rates, [1e-6, 0.0, 1e-6, 1e-6, 5e-7, 5e-7], rtol=1e-6)


def test_weight_decay_applies_to_the_configured_parameters():
    moved = {}
    for decayed in (DecayMatrices(), DecayNamed(("bias", "up"))):
        trainer = dataclasses.replace(TRAINER, optimizer=AdamW(weight_decay=0.5), weight_decay_mask=decayed)
        compiled, state, lay = started(trainer=trainer)
        learned = state.learned._replace(params=jax.tree.map(jnp.ones_like, state.learned.params))
        state = state._replace(learned=learned)
        moved[type(decayed)] = host(compiled.step(state, None, batch_of(lay))[0].learned.params)
    change = jax.tree.map(lambda one, other: (other - one).round(5), *moved.values())
    np.testing.assert_allclose(change["bias"], -1e-2 * 0.5)
    np.testing.assert_allclose(change["down"], 1e-2 * 0.5)
    np.testing.assert_array_equal(change["up"], 0.0)


def test_rate_factors_multiply_the_moves_of_the_parameters_that_they_name():
    factors = RateFactors(("up", "*"), (0.0, 0.5))
    batch, moves = batch_of(layout()), []
    for trainer in (TRAINER, dataclasses.replace(TRAINER, rate_factors=factors)):
        compiled, state, _ = started(trainer=trainer)
        before = host(state.learned.params)
        after = host(compiled.step(state, None, batch)[0].learned.params)
        moves.append({name: after[name] - before[name] for name in before})
    plain, scaled = moves
    assert np.abs(plain["up"]).max() > 0 and np.abs(scaled["up"]).max() == 0
    for name in ("down", "bias"):
        np.testing.assert_allclose(scaled[name], 0.5 * plain[name], rtol=1e-4, atol=1e-8)


def test_rate_factors_that_name_nothing_or_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"trainer\.rate_factors: expected patterns that match a parameter, got 'upp'"):
        RateFactors(("upp",), (2.0,)).of(["up", "down"])
    with pytest.raises(ValueError, match="factors: expected 2 numbers of at least 0, one for each pattern"):
        RateFactors(("up", "down"), (1.0,))


def test_clipping_bounds_the_global_norm_and_keeps_the_direction():
    grads = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([4.0])}
    small = clip_by_norm(grads, jnp.asarray(5.0), 1.0)
    np.testing.assert_allclose(small["a"], [0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(small["b"], [0.8], rtol=1e-6)
    np.testing.assert_array_equal(clip_by_norm(grads, jnp.asarray(5.0), 10.0)["a"], grads["a"])


def test_the_frozen_module_is_unchanged_and_not_part_of_the_state():
    compiled, state, lay = started(Toy(fixed=True))
    before = leaves(compiled._frozen)
    for step in range(3):
        state, _ = compiled.step(state, None, batch_of(lay, step))
    assert leaves(compiled._frozen) == before
    assert state.learned.params["up"].shape == (4, 8) and len(state.learned.params) == 3


def test_the_randomness_of_a_step_depends_only_on_seed_and_step():
    losses = []
    for _ in range(2):
        compiled, state, lay = started(Toy(noise=1.0))
        found = []
        for _ in range(2):
            state, sums = compiled.step(state, None, batch_of(lay))
            found.append(float(sums["loss"][0]))
        losses.append(found)
    assert losses[0] == losses[1] and losses[0][0] != losses[0][1]


@pytest.mark.parametrize(("shape", "accumulate"), [((8, 1, 1), 1), ((1, 8, 1), 1), ((2, 2, 2), 1), ((2, 2, 2), 2)])
def test_a_sharded_step_equals_a_single_device(shape, accumulate):
    trainer = dataclasses.replace(TRAINER, accumulate=accumulate, ema=ConstantEma(0.9), clip_norm=1.0)
    results = []
    for lay in (layout(), layout(*shape)):
        compiled, state, _ = started(ShardableToy(), trainer, lay)
        for step in range(2):
            state, sums = compiled.step(state, None, batch_of(lay, step, rows=16))
        results.append((host(state), host(sums)))
    for one, many in zip(jax.tree.leaves(results[0]), jax.tree.leaves(results[1]), strict=True):
        np.testing.assert_allclose(one, many, rtol=1e-5, atol=1e-5)
    specs = {"up": P("fsdp", "tensor"), "down": P("tensor"), "bias": P("tensor")}
    adam = state.learned.optimizers["fit"]
    for name, spec in specs.items():
        for tree in (state.learned.params, state.learned.ema_params, adam.mu, adam.nu):
            assert tree[name].sharding.spec == spec
    assert state.learned.non_params["mean"].sharding.spec == P("fsdp")
    assert compiled.compiles()["step"] == 1


class ShardableToy(Toy):
    """The toy task with repeated rows of ``up``, since four inputs cannot be sharded over eight devices."""

    def init(self, rngs):
        module = super().init(rngs)
        module.up = nnx.Param(jnp.concatenate([module.up[...]] * 2), axes=module.up.get_metadata()["axes"])
        module.mean = type(module.mean)(jnp.zeros((8,)), axes=module.mean.get_metadata()["axes"])
        return module

    def errors(self, module, frozen, batch, key, step):
        wide = {"x": jnp.concatenate([batch["x"]] * 2, axis=1), "y": batch["y"]}
        return super().errors(module, frozen, wide, key, step)
