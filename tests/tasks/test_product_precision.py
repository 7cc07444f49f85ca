"""Products of float32 operands name their precision, so accelerators round none of them to TF32 or bfloat16."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from dalle_jax.models.code_generator import CodeGenerator
from dalle_jax.models.dvae import Dvae
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.vqgan import Vqgan
from dalle_jax.models.vqvae import Vqvae
from dalle_jax.pipelines.ranker import _score
from dalle_jax.sampling.autoregressive import Settings, image_keys, sample
from tests.jaxpr_products import is_exact, is_float32, portable_products
from tests.parallel.test_sharded_tasks import DVAE, KINDS, MODELS, SIDE, TEXT, VQGAN, VQVAE, task_of

ROWS = 4
PIXELS = jax.ShapeDtypeStruct((ROWS, SIDE, SIDE, 3), jnp.float32)
PROMPTS = jnp.ones((2, TEXT), jnp.int32)


def rounded(function, *args):
    """Return the float32 products of a function that an accelerator may round, and the number of all products."""
    found = portable_products(function, *args)
    return [str(one) for one in found if is_float32(one) and not is_exact(one)], len(found)


@pytest.mark.parametrize("kind", KINDS)
def test_no_loss_and_no_gradient_has_a_rounded_product_of_float32(kind):
    task = task_of(kind)
    graph, params, rest = nnx.split(nnx.eval_shape(lambda: task.init(nnx.Rngs(0))), nnx.Param, ...)
    key = jax.random.key(0)
    for objective in task.objectives():

        def gradients(params, rest, batch, objective=objective):
            def loss(params):
                module = nnx.merge(graph, params, rest, copy=True)
                return objective.loss(module, task.frozen(), batch, key, jnp.zeros((), jnp.int32))[0]

            return jax.value_and_grad(loss)(params)

        left, count = rounded(gradients, params, rest, task.batch_spec(16))
        assert count and left == []


@pytest.mark.parametrize("tokenizer", [(Vqvae, VQVAE), (Vqgan, VQGAN), (Dvae, DVAE)], ids=lambda one: one[0].__name__)
def test_codes_come_from_exact_products(tokenizer):
    kind, config = tokenizer
    graph, state = nnx.split(nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0))))

    def round_trip(state, pixels):
        module: ImageTokenizer = nnx.merge(graph, state)
        codes = module.encode(pixels)
        return codes, module.decode(codes), module.encode_latents(pixels)

    left, count = rounded(round_trip, state, PIXELS)
    assert count and left == []


@pytest.mark.parametrize("kind", ["dalle", "dalle_bart"])
def test_sampled_codes_come_from_exact_products(kind):
    graph, state = nnx.split(nnx.eval_shape(lambda: MODELS[kind].build(nnx.Rngs(0))))

    def draw(state):
        module: CodeGenerator = nnx.merge(graph, state)
        return sample(module, PROMPTS, image_keys(jnp.arange(2), 2), Settings.of(2, guidance=2.0), guided=True)

    left, count = rounded(draw, state)
    assert count and left == []


def test_scores_of_candidates_come_from_exact_products():
    graph, state = nnx.split(nnx.eval_shape(lambda: MODELS["clip"].build(nnx.Rngs(0))))
    pixels = jax.ShapeDtypeStruct(PIXELS.shape, jnp.uint8)
    left, count = rounded(lambda state, pixels: _score(nnx.merge(graph, state), pixels, PROMPTS), state, pixels)
    assert count and left == []
