"""Likelihoods whose logits are computed in ranges of positions: the same values and gradients in less memory."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.losses.cross_entropy import cross_entropy, cross_entropy_in_parts, z_loss
from dalle_jax.models.dalle import DalleConfig
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.generate_codes import CodeGeneration, GenerateCodes
from tests.jaxpr_products import portable_products

CONFIG = DalleConfig(
    text_vocab=11, text_length=4, codebook_size=7, grid=(3, 4), width=16, depth=1, heads=2, head_size=8, code_width=3
)
TEXT = jnp.array([[3, 5, 0, 0], [1, 2, 9, 4]])
CODES = jax.random.randint(jax.random.key(1), (2, 12), 0, 7)


@pytest.fixture(scope="module")
def split():
    graph, state = nnx.split(nnx.eval_shape(lambda: CONFIG.build(nnx.Rngs(0))))
    draw = np.random.default_rng(0)
    return graph, jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0, 0.2, leaf.shape), leaf.dtype), state)


def loss_in(graph, parts):
    def loss(state):
        found = nnx.merge(graph, state).nats(TEXT, CODES, parts=parts)
        assert found.text is not None
        return found.image.mean() + found.text.mean(), found

    return loss


def test_values_and_gradients_are_those_of_all_logits_at_once(split):
    graph, state = split
    logits = nnx.merge(graph, state)(TEXT, CODES)
    results = [jax.jit(jax.value_and_grad(loss_in(graph, parts), has_aux=True))(state) for parts in (1, 4)]
    for (_, found), _ in results:
        np.testing.assert_allclose(found.image, cross_entropy(logits.image, CODES), rtol=1e-5)
        np.testing.assert_allclose(found.text, cross_entropy(logits.text, TEXT), rtol=1e-5)
    for one, other in zip(*(jax.tree.leaves(gradients) for _, gradients in results), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_z_loss_is_the_mean_square_of_log_z(split):
    graph, state = split
    logits = nnx.merge(graph, state)(TEXT, CODES)
    log_z = jnp.concatenate([jax.nn.logsumexp(one, axis=-1) for one in logits], axis=1)
    for parts in (1, 4):
        found = nnx.merge(graph, state).nats(TEXT, CODES, parts=parts)
        np.testing.assert_allclose(z_loss(found.log_z), (log_z**2).mean(), rtol=1e-5)


def test_the_weight_of_the_z_loss_multiplies_it(split):
    graph, state = split
    settings = GenerateCodes(model=CONFIG, captions=Captions(file="unread"), blank_captions=0.0, image_tokenizer="none")
    batch = {"text": TEXT, "codes": CODES}

    def loss(weight):
        task = CodeGeneration(replace(settings, z_loss=weight), None, None)
        return float(task.loss(nnx.merge(graph, state), {}, batch, jax.random.key(0), jnp.int32(0))[0])

    log_z = nnx.merge(graph, state).nats(TEXT, CODES).log_z
    assert loss(0.5) - loss(0.0) == pytest.approx(0.5 * float((log_z**2).mean()), rel=1e-4)


def test_no_product_has_the_logits_of_all_positions(split):
    graph, state = split

    def sizes(parts):
        found = portable_products(jax.grad(lambda state: loss_in(graph, parts)(state)[0]), state)
        return {one.outvars[0].aval.shape for one in found}

    whole, parts = sizes(1), sizes(4)
    assert {(2, 12, 7), (2, 4, 11)} <= whole
    assert {(2, 3, 7), (2, 1, 11)} <= parts and not {(2, 12, 7), (2, 4, 11)} & parts


def test_scratch_memory_falls_with_the_number_of_parts():
    rows, length, width, vocabulary = 4, 256, 32, 2048
    kernel = jax.ShapeDtypeStruct((width, vocabulary), jnp.float32)
    x = jax.ShapeDtypeStruct((rows, length, width), jnp.float32)
    targets = jax.ShapeDtypeStruct((rows, length), jnp.int32)

    def scratch(parts):
        def loss(kernel, x, targets):
            return cross_entropy_in_parts(lambda x: x @ kernel, x, targets, parts).nats.mean()

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(kernel, x, targets).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = rows * length * vocabulary * 4
    assert scratch(1) > logits and scratch(16) < logits / 4


def test_parts_that_do_not_divide_the_positions_are_refused():
    with pytest.raises(ValueError, match="parts: expected a divisor of 12 positions, got 5"):
        cross_entropy_in_parts(lambda x: x, jnp.zeros((1, 12, 7)), jnp.zeros((1, 12), jnp.int32), 5)
    with pytest.raises(ValueError, match="loss_parts: expected a divisor of 4 text tokens, got 3"):
        GenerateCodes(model=CONFIG, captions=Captions(file="unread"), image_tokenizer="unread", loss_parts=3)
