import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from dalle_jax.layers.quantize import (
    CodebookState,
    Quantizer,
    argmin_and_min,
    code_totals,
    ema_update,
    revive,
    squared_distances,
    straight_through,
)

KEY = jax.random.key(5)


def quantizer(size=6, width=3, decay=0.9, revive_below=0.0):
    return Quantizer(size, width, decay=decay, revive_below=revive_below, rngs=nnx.Rngs(0))


def trained(module, x, key):
    """Quantise one batch and move the codebook to it."""
    out = module(x)
    module.follow(out.assignments, key)
    return out


def batches(count, rows=20, width=3):
    return np.random.default_rng(0).normal(size=(count, rows, width)).astype(np.float32)


def test_the_codebook_follows_the_paper_by_hand():
    """Appendix A.1 in numpy: N and m decay, e = m / N; a code without inputs keeps its vector."""
    module = quantizer()
    vectors = np.array(module.vectors[...])
    counts, sums = np.zeros(6), np.zeros((6, 3))
    for x in batches(4):
        codes = ((x[:, None] - vectors[None]) ** 2).sum(-1).argmin(-1)
        np.testing.assert_array_equal(trained(module, jnp.asarray(x), KEY).assignments.codes, codes)
        for k in range(6):
            counts[k] = 0.9 * counts[k] + 0.1 * (codes == k).sum()
            sums[k] = 0.9 * sums[k] + 0.1 * x[codes == k].sum(0)
            if counts[k]:
                vectors[k] = sums[k] / counts[k]
        np.testing.assert_allclose(module.vectors[...], vectors, atol=1e-5)
    np.testing.assert_allclose(module.counts[...], counts, atol=1e-5)


def test_inference_leaves_the_codebook_unchanged():
    module, x = quantizer(), jnp.asarray(batches(1)[0])
    before = jax.tree.map(jnp.copy, nnx.state(module))
    module(x)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(nnx.state(module)), strict=True):
        np.testing.assert_array_equal(old, new)


def test_straight_through_has_the_value_of_the_code_and_the_gradient_of_the_input():
    x, e = jnp.array([1.0, -2.0]), jnp.array([3.0, 5.0])
    np.testing.assert_allclose(straight_through(x, e), e)
    to_x, to_e = jax.grad(lambda x, e: (straight_through(x, e) ** 2).sum(), argnums=(0, 1))(x, e)
    np.testing.assert_allclose(to_x, 2 * e)
    np.testing.assert_array_equal(to_e, 0)


def test_codes_are_those_of_the_nearest_vectors_and_lookup_returns_these():
    module, x = quantizer(size=16), jnp.asarray(batches(1)[0]).reshape(4, 5, 3)
    out = module(x)
    brute = np.square(np.asarray(x)[..., None, :] - np.asarray(module.vectors[...])).sum(-1).argmin(-1)
    np.testing.assert_array_equal(out.assignments.codes, brute)
    np.testing.assert_array_equal(module.encode(x), brute)
    np.testing.assert_array_equal(module.lookup(out.assignments.codes), out.nearest)
    np.testing.assert_allclose(out.vectors, out.nearest, atol=1e-6)
    np.testing.assert_array_equal(out.histogram, np.bincount(brute.ravel(), minlength=16))


def test_ties_go_to_the_first_code_as_with_argmin():
    x = jnp.array([[3.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    index, smallest = argmin_and_min(x)
    np.testing.assert_array_equal(index, [1, 0])
    np.testing.assert_array_equal(smallest, [1, 2])


def test_squared_distances_equal_their_definition():
    x, e = batches(2)
    brute = ((x[:, None] - e[None]) ** 2).sum(-1)
    np.testing.assert_allclose(squared_distances(jnp.asarray(x), jnp.asarray(e)), brute, atol=1e-5)


def test_totals_are_equal_on_all_platforms(monkeypatch):
    x, codes = jnp.asarray(batches(1)[0]), jnp.arange(20) % 4
    here = code_totals(x, codes, 6)
    monkeypatch.setattr("dalle_jax.layers.quantize.platform", lambda: "tpu")
    for got, expected in zip(code_totals(x, codes, 6), here, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_dead_codes_move_to_inputs_with_large_errors_and_get_the_mean_count():
    state = CodebookState(vectors=jnp.zeros((4, 2)), counts=jnp.array([8.0, 0.0, 4.0, 4.0]), sums=jnp.ones((4, 2)))
    x = jnp.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    new = revive(state, x, jnp.array([0.0, 1.0, 0.0]), 0.1, KEY)  # only the second row has an error
    np.testing.assert_array_equal(new.vectors, [[0, 0], [2, 2], [0, 0], [0, 0]])
    np.testing.assert_array_equal(new.counts, [8, 4, 4, 4])
    np.testing.assert_array_equal(new.sums, [[1, 1], [8, 8], [1, 1], [1, 1]])


def test_no_two_codes_are_revived_from_the_same_input():
    state = CodebookState(vectors=jnp.zeros((64, 3)), counts=jnp.zeros(64).at[0].set(1), sums=jnp.zeros((64, 3)))
    x = jnp.asarray(batches(1, rows=70)[0])
    revived = revive(state, x, jnp.ones(70).at[5].set(1e4), 0.1, KEY).vectors[1:]
    assert len(np.unique(np.asarray(revived), axis=0)) == 63
    assert bool((revived == x[5]).all(axis=1).any())
    few = revive(state, x[:20], jnp.ones(20), 0.1, KEY)
    assert len(np.unique(np.asarray(few.vectors[1:21]), axis=0)) == 20 and not few.counts[21:].any()


def test_without_revival_unused_codes_keep_their_vectors():
    module = quantizer(size=64)
    first = np.asarray(module.vectors[...])
    for _ in range(3):
        out = trained(module, jnp.asarray(batches(1, rows=4)[0]), KEY)
    unused = np.setdiff1d(np.arange(64), np.asarray(out.assignments.codes))
    np.testing.assert_array_equal(module.vectors[...][unused], first[unused])
    assert len(unused) >= 60


def test_the_vector_of_a_code_that_is_no_longer_used_does_not_move():
    state = CodebookState(vectors=jnp.ones((2, 2)), counts=jnp.array([1.0, 1.0]), sums=jnp.ones((2, 2)))
    follow = jax.jit(lambda state: ema_update(state, jnp.array([1.0, 0.0]), jnp.array([[1.0, 1.0], [0, 0]]), 0.9))
    for _ in range(1000):
        state = follow(state)
    np.testing.assert_allclose(state.vectors, 1.0, rtol=1e-3)


def test_revival_depends_on_its_key_alone():
    state = CodebookState(vectors=jnp.zeros((8, 3)), counts=jnp.zeros(8).at[0].set(1), sums=jnp.zeros((8, 3)))
    x = jnp.asarray(batches(1)[0])
    first, again, other = (revive(state, x, jnp.ones(20), 0.1, jax.random.key(k)).vectors for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_revival_brings_a_collapsed_codebook_back():
    module = quantizer(size=32, revive_below=0.1)
    module.vectors[...] = module.vectors[...] + 100  # all vectors are equally far away, so one code gets every input
    x = jnp.asarray(batches(1, rows=200)[0])
    used = [int((trained(module, x, jax.random.fold_in(KEY, step)).histogram > 0).sum()) for step in range(4)]
    assert used[0] < 5
    assert used[-1] > 24


def test_a_sharded_batch_updates_the_codebook_as_one_device_does():
    x = jnp.asarray(batches(1, rows=64)[0])
    graph, state = nnx.split(quantizer(revive_below=0.5))

    def step(state, x):
        module = nnx.merge(graph, state, copy=True)
        trained(module, x, KEY)
        return nnx.state(module)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    alone = jax.jit(step)(state, x)
    spread = jax.jit(step)(state, jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))))
    for one, many in zip(jax.tree.leaves(alone), jax.tree.leaves(spread), strict=True):
        np.testing.assert_allclose(one, many, atol=1e-5)
