"""The patch transformer: the sizes of DiT and JiT, its conditions, its patches, and inputs that do not fit."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.models.patch_denoisers.patch_transformer import (
    PatchEmbedding,
    PatchTransformer,
    PatchTransformerConfig,
)
from dalle_jax.models.unet import UNetContext

CONFIG = PatchTransformerConfig(width=16, layers=3, heads=2, patch=2, bottleneck=6, context_width=4, context_start=1)
DIT = dataclasses.replace(CONFIG, block="dit", layers=1, context_start=0)
IMAGE = jax.random.normal(jax.random.key(1), (2, 4, 6, 3))
TIME = jnp.array([200.0, 700.0])
VECTOR = jax.random.normal(jax.random.key(2), (2, 16))
TOKENS = jax.random.normal(jax.random.key(3), (2, 3, 4))
MASK = jnp.array([[True, True, False], [True, False, False]])
SEEN = jnp.ones_like(MASK)

CLASSES = 1001
"""Rows of the published tables of class embeddings, which our network gets as ``vector``."""


def new(config: PatchTransformerConfig) -> PatchTransformer:
    return nnx.jit(lambda: config.build(nnx.Rngs(0)))()


def disturbed(config: PatchTransformerConfig) -> PatchTransformer:
    """Return a network with values that are not zero in its gates and outputs."""

    def build() -> PatchTransformer:
        graph, state = nnx.split(config.build(nnx.Rngs(0)))
        noisy = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(jax.random.key(x.size), x.shape), state)
        return nnx.merge(graph, noisy)

    return nnx.jit(build)()


@nnx.jit
def predict(network, image, time, vector, context, key=None):
    return network(image, time, vector=vector, context=context, key=key)


@pytest.fixture(scope="module")
def network() -> PatchTransformer:
    return disturbed(CONFIG)


@pytest.fixture(scope="module")
def run(network):
    return functools.partial(predict, network)


@pytest.mark.parametrize(
    ("name", "millions", "config"),
    [
        ("DiT-S/2", 33, PatchTransformerConfig(384, 12, 6, 2, "dit", channels=4, learned_variance=True)),
        ("DiT-B/2", 130, PatchTransformerConfig(768, 12, 12, 2, "dit", channels=4, learned_variance=True)),
        ("DiT-L/2", 458, PatchTransformerConfig(1024, 24, 16, 2, "dit", channels=4, learned_variance=True)),
        ("DiT-XL/2", 675, PatchTransformerConfig(1152, 28, 16, 2, "dit", channels=4, learned_variance=True)),
        ("JiT-B/16", 131, PatchTransformerConfig(768, 12, 12, 16, bottleneck=128, context_start=4)),
        ("JiT-L/16", 459, PatchTransformerConfig(1024, 24, 16, 16, bottleneck=128, context_start=8)),
        ("JiT-H/16", 953, PatchTransformerConfig(1280, 32, 16, 16, bottleneck=256, context_start=10)),
    ],
)
def test_the_published_sizes_have_their_numbers_of_parameters(name, millions, config):
    config = dataclasses.replace(config, scan=True)
    state = nnx.state(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))), nnx.Param)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state)) + CLASSES * config.width
    assert abs(count / 1e6 - millions) < 1, name


def test_a_new_network_predicts_zero_since_gates_and_output_start_at_0():
    network = new(CONFIG)
    np.testing.assert_array_equal(predict(network, IMAGE, TIME, VECTOR, UNetContext(TOKENS, SEEN)), 0)
    x = jax.random.normal(jax.random.key(5), (2, 6, 16))
    np.testing.assert_array_equal(network.rest.block(0)(x, VECTOR, None, None, None), x)


def test_every_input_of_a_row_changes_its_output_and_that_of_no_other_row(run):
    plain = run(IMAGE, TIME, VECTOR, UNetContext(TOKENS, MASK))
    assert plain.shape == IMAGE.shape and plain.dtype == jnp.float32
    changes = (
        (IMAGE.at[0].add(1.0), TIME, VECTOR, UNetContext(TOKENS, MASK)),
        (IMAGE, TIME.at[0].set(900.0), VECTOR, UNetContext(TOKENS, MASK)),
        (IMAGE, TIME, VECTOR.at[0].add(1.0), UNetContext(TOKENS, MASK)),
        (IMAGE, TIME, VECTOR, UNetContext(TOKENS.at[0, 1].add(1.0), MASK)),
        (IMAGE, TIME, VECTOR, UNetContext(TOKENS, MASK.at[0, 1].set(False))),
    )
    for change in changes:
        found = run(*change)
        assert np.abs(found[0] - plain[0]).max() > 1e-3
        np.testing.assert_allclose(found[1], plain[1], atol=1e-5)


def test_hidden_tokens_do_not_change_the_output(run):
    hidden = run(IMAGE, TIME, VECTOR, UNetContext(TOKENS, MASK))
    other = run(IMAGE, TIME, VECTOR, UNetContext(TOKENS.at[0, 2].add(5.0).at[1, 1:].add(5.0), MASK))
    np.testing.assert_allclose(hidden, other, atol=1e-6)


@pytest.mark.parametrize("block", ["dit", "jit"])
def test_the_order_of_context_tokens_does_not_matter_and_that_of_patches_does(block):
    network = disturbed(CONFIG if block == "jit" else DIT)
    plain = predict(network, IMAGE, TIME, VECTOR, UNetContext(TOKENS, SEEN))
    reversed_context = predict(network, IMAGE, TIME, VECTOR, UNetContext(TOKENS[:, ::-1], SEEN))
    np.testing.assert_allclose(reversed_context, plain, atol=1e-5)
    moved = predict(network, jnp.roll(IMAGE, 2, axis=2), TIME, VECTOR, UNetContext(TOKENS, SEEN))  # by a patch
    assert np.abs(moved - jnp.roll(plain, 2, axis=2)).max() > 1e-3


def scanned_copy(network: PatchTransformer, config: PatchTransformerConfig) -> PatchTransformer:
    """Return a network with a scanned stack and the same parameters."""
    copy = new(config)
    for name in ("time_in", "time_out", "input", "context", "first", "norm", "modulation", "output"):
        nnx.update(getattr(copy, name), nnx.state(getattr(network, name)))
    layers = [nnx.state(network.rest.block(layer)) for layer in range(config.layers - config.context_start)]
    nnx.update(copy.rest.blocks, jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers))
    return copy


@nnx.jit
def loss_and_norm(network: PatchTransformer) -> tuple[jax.Array, jax.Array]:
    """Return a loss and the norm of its gradients."""

    def loss(network):
        found = network(IMAGE, TIME, vector=VECTOR, context=UNetContext(TOKENS, MASK))
        return jnp.square(found - 1.0).mean()

    value, gradients = nnx.value_and_grad(loss)(network)
    return value, jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradients)))


def test_scan_and_remat_compute_the_same_loss_and_gradients(network):
    plain = loss_and_norm(network)
    copy = scanned_copy(network, dataclasses.replace(CONFIG, scan=True, remat="attention"))
    np.testing.assert_allclose(loss_and_norm(copy), plain, rtol=1e-4)


def test_bfloat16_computes_close_to_float32_with_float32_parameters_and_output(network):
    half = disturbed(dataclasses.replace(CONFIG, dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(half))} == {jnp.dtype("float32")}
    found, wanted = (predict(one, IMAGE, TIME, VECTOR, UNetContext(TOKENS, SEEN)) for one in (half, network))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, atol=0.05 * float(jnp.abs(wanted).max()))


def test_added_channels_leave_the_output(network):
    wider = network.with_extra_channels(2)
    extra, context = jax.random.normal(jax.random.key(4), (*IMAGE.shape[:3], 2)), UNetContext(TOKENS, SEEN)
    run = nnx.jit(lambda network, extra: network(IMAGE, TIME, vector=VECTOR, context=context, extra=extra))
    output = run(wider, extra)
    np.testing.assert_array_equal(output, run(wider, 0 * extra))
    np.testing.assert_allclose(output, predict(network, IMAGE, TIME, VECTOR, context), atol=1e-5)
    fresh = nnx.eval_shape(lambda: wider.config.build(nnx.Rngs(0)))
    assert jax.tree.map(jnp.shape, nnx.state(wider)) == jax.tree.map(jnp.shape, nnx.state(fresh))


@pytest.mark.parametrize("bottleneck", [0, 6])
def test_channels_are_added_to_each_pixel_of_a_patch(bottleneck):
    embedding = PatchEmbedding(dataclasses.replace(CONFIG, bottleneck=bottleneck), rngs=nnx.Rngs(0))
    before, extra = embedding(IMAGE), jnp.ones((*IMAGE.shape[:3], 2))
    embedding.add_channels(2)
    np.testing.assert_allclose(embedding(jnp.concatenate([IMAGE, extra], axis=-1)), before, atol=1e-6)
    first = embedding.up if bottleneck == 0 else embedding.down
    np.testing.assert_array_equal(first.kernel[...].reshape(4, 5, -1)[:, 3:], 0)


def test_dropout_depends_on_its_key():
    network = disturbed(dataclasses.replace(DIT, dropout=0.5))
    inputs = (network, IMAGE, TIME, VECTOR, UNetContext(TOKENS, SEEN))
    one, same, other = (predict(*inputs, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


def test_every_parameter_names_its_axes():
    for _, variable in nnx.to_flat_state(nnx.state(nnx.eval_shape(lambda: CONFIG.build(nnx.Rngs(0))), nnx.Param)):
        assert len(variable.get_metadata()["axes"]) == variable.ndim


def test_wrong_inputs_and_sizes_are_named(network):
    with pytest.raises(ValueError, match="context: expected one"):
        network(IMAGE, TIME)
    with pytest.raises(ValueError, match="extra: expected 0 channels, got 1"):
        network(IMAGE, TIME, context=UNetContext(TOKENS), extra=IMAGE[..., :1])
    with pytest.raises(ValueError, match="multiples of 2, got"):
        network(IMAGE[:, :3], TIME, context=UNetContext(TOKENS, SEEN))
    with pytest.raises(ValueError, match=r"expected width a multiple of 4 \* heads"):
        PatchTransformer(dataclasses.replace(CONFIG, heads=3), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="context_start: expected 0 to 2 for 3 layers, got 3"):
        PatchTransformer(dataclasses.replace(CONFIG, context_start=3), rngs=nnx.Rngs(0))
