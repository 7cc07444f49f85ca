"""FLOPs counted from jaxprs against closed formulas."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.experimental import pallas as pl

from dalle_jax.models.clip import ClipConfig, TowerConfig
from dalle_jax.models.dalle import DalleConfig
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.parallel.layout import Layout, constrain, platform, portable_trace
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.tasks.align_text_images import AlignTextImages
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.generate_codes import CodeGeneration, GenerateCodes
from dalle_jax.train.flops import Count, count, model_flops
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.state import ModuleSpec, state_spec
from dalle_jax.train.trainer import Trainer

A, B = jax.ShapeDtypeStruct((3, 5), jnp.float32), jax.ShapeDtypeStruct((5, 7), jnp.float32)
SQUARE = jax.ShapeDtypeStruct((4, 4), jnp.float32)
PRODUCT, SQUARED = 2 * 3 * 5 * 7, 2 * 4**3


def counted(function, *arguments, marked=None):
    return count(jax.make_jaxpr(function)(*arguments), marked)


def test_a_product_counts_two_operations_per_multiplied_pair():
    assert counted(lambda a, b: a @ b, A, B).total == PRODUCT
    assert counted(lambda a, b: jnp.einsum("ij,jk->k", a, b), A, B).total in (2 * 5 * 7, PRODUCT)
    x, w = jax.ShapeDtypeStruct((2, 6, 3, 4), jnp.float32), jax.ShapeDtypeStruct((2, 6, 4, 5), jnp.float32)
    assert counted(jnp.matmul, x, w).total == 2 * 6 * (2 * 3 * 4 * 5)


def test_the_body_of_a_scan_counts_as_often_as_it_runs():
    def loop(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=10)[0]

    assert counted(loop, SQUARE, SQUARE).total == 10 * SQUARED
    assert counted(lambda x, w: jax.lax.fori_loop(0, 6, lambda _, x: x @ w, x), SQUARE, SQUARE).total == 6 * SQUARED


def test_the_branch_with_the_most_flops_counts():
    def branch(flag, x):
        return jax.lax.cond(flag, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert counted(branch, jax.ShapeDtypeStruct((), bool), SQUARE).total == 2 * SQUARED


def test_products_of_a_loop_of_unknown_length_are_named_and_not_counted():
    def loop(x):
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x)

    assert counted(loop, SQUARE) == Count(uncounted=frozenset({"while"}))
    assert counted(lambda x: jax.lax.while_loop(lambda x: x < 9, lambda x: x + 1, x.sum()), SQUARE) == Count()


def test_gradients_and_rematerialised_products_are_counted():
    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w) @ w)

    assert counted(jax.grad(loss), SQUARE, SQUARE).total == 2 * SQUARED + 3 * SQUARED  # x needs no gradient
    again = jax.grad(jax.checkpoint(loss, policy=jax.checkpoint_policies.nothing_saveable))
    assert counted(again, SQUARE, SQUARE).total > counted(jax.grad(loss), SQUARE, SQUARE).total


def test_functions_with_custom_derivatives_are_walked():
    @jax.custom_vjp
    def twice(x):
        return x @ x @ x

    twice.defvjp(lambda x: (twice(x), x), lambda x, g: (g @ x,))
    assert counted(twice, SQUARE).total == 2 * SQUARED
    assert counted(jax.grad(lambda x: twice(x).sum()), SQUARE).total == 3 * SQUARED


def test_every_device_of_a_shard_map_counts():
    mesh = make_mesh(Mesh(data=4), jax.devices()[:4])
    spec = jax.sharding.PartitionSpec("data")
    mapped = jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=(spec, None), out_specs=spec)
    rows = jax.ShapeDtypeStruct((8, 4), jnp.float32)
    assert counted(mapped, rows, SQUARE).total == 2 * 8 * 4 * 4


def test_a_kernel_counts_by_its_cost_estimate_or_once_per_grid_point():
    def kernel(x, y):
        y[...] = x[...] @ x[...]

    block = pl.BlockSpec((4, 4), lambda i: (i, 0))
    shape = jax.ShapeDtypeStruct((12, 4), jnp.float32)
    call = {"grid": (3,), "in_specs": [block], "out_specs": block, "out_shape": shape}
    assert counted(pl.pallas_call(kernel, **call), shape).total == 3 * SQUARED
    said = pl.CostEstimate(flops=77, transcendentals=0, bytes_accessed=0)
    assert counted(pl.pallas_call(kernel, cost_estimate=said, **call), shape).total == 77


def brute_force(size, kernel, stride, padding, dilation):
    """Count the products of the taps of a 1-D kernel with values."""
    low, high = padding
    spread = (size - 1) * dilation + 1
    outs = (low + spread + high - kernel) // stride + 1
    places = [o * stride + k - low for o in range(outs) for k in range(kernel)]
    return sum(0 <= p < spread and p % dilation == 0 for p in places)


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, (1, 1), 1), (2, (0, 1), 1), (1, (2, 1), 2)])
def test_a_convolution_counts_only_products_of_a_weight_and_a_value(stride, padding, dilation):
    x, w = jax.ShapeDtypeStruct((2, 6, 6, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32)

    def convolve(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (stride, stride), (padding, padding), lhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    met = brute_force(6, 3, stride, padding, dilation)
    assert counted(convolve, x, w).total == 2 * 2 * 3 * 5 * met**2


def test_each_gradient_of_a_strided_convolution_costs_as_much_as_the_convolution():
    x, w = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32)

    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    forward = counted(convolve, x, w).total
    all_three = counted(lambda x, w, g: jax.vjp(convolve, x, w)[1](g), x, w, jax.eval_shape(convolve, x, w)).total
    assert all_three == 3 * forward


def test_products_are_separated_by_their_dependence_on_marked_inputs():
    def network(w, frozen, x):
        seen = jnp.tanh(x @ frozen)
        return jax.lax.scan(lambda h, _: (h @ w, h @ frozen), seen, None, length=3)

    found = counted(network, SQUARE, SQUARE, SQUARE, marked=[True, False, False])
    assert (found.fixed, found.moved) == (SQUARED, 6 * SQUARED)


def test_a_portable_trace_takes_the_plain_form_of_every_layer():
    layout = Layout(make_mesh(Mesh()), Rules())
    seen = []

    def look(x):
        with portable_trace():
            seen.append((platform(), constrain(x, "batch") is x))
        seen.append(platform())
        return x

    layout.jit(look)(jnp.zeros(8))
    assert seen == [("none", True), "cpu"]


def step_flops(task, rows, accumulate=1):
    layout = Layout(make_mesh(Mesh(), jax.devices()[:1]), Rules())
    spec = state_spec(task, Trainer(1, ConstantRate(1e-3)), layout)
    return model_flops(task, spec, ModuleSpec.of(task.frozen()), task.batch_spec(rows), accumulate)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_step_of_dalle_counts_6_operations_per_weight_and_token_plus_attention(scan, accumulate):
    text, grid, width, depth, heads, size, words, codes = 6, (3, 4), 16, 5, 2, 4, 20, 11
    config = DalleConfig(
        text_vocab=words, text_length=text, codebook_size=codes, grid=grid, width=width, depth=depth, heads=heads,
        head_size=size, attention=("row", "column"), scan=scan,
    )  # fmt: skip
    image, rows = grid[0] * grid[1], 4
    length = text + image
    weights = depth * (4 * width * heads * size + 8 * width * width)
    per_row = 6 * (weights * length + width * words * text + width * codes * image)
    attention = 3 * depth * 4 * heads * size * length**2
    found = step_flops(GenerateCodes(config, Captions("there is none")).open_for_plan(), rows, accumulate)
    assert (found.fixed, found.moved) == (0, rows * (per_row + attention))
    assert not found.uncounted


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_step_of_clip_compares_every_image_with_every_text(accumulate):
    tower = TowerConfig(width=8, layers=2, heads=2)
    config = ClipConfig(image_size=8, patch=4, vision=tower, vocab_size=11, text_length=3, text=tower, embed_width=6)
    rows, weights = 4, 2 * 12 * 8 * 8
    patches = 4 * (4 * 4 * 3 * 8)
    towers = (5 + 3) * weights + 2 * 2 * 8 * (5**2 + 3**2) + 2 * 8 * 6  # weights, attention, projections
    found = step_flops(AlignTextImages(config, Captions("there is none")).open_for_plan(), rows, accumulate)
    assert found.moved == 3 * 2 * (rows * (patches + towers) + rows * rows * 6)


def test_a_frozen_tokenizer_counts_once():
    config = DalleConfig(text_vocab=20, text_length=6, codebook_size=16, grid=(2, 2), width=16, depth=1, heads=2)
    images = GenerateCodes(config, Captions("there is none"), image_tokenizer="there is none", image_size=8)
    settings = VqvaeConfig(downsample=4, width=16, blocks=1, codebook_size=16, code_width=8, stem="patch")
    tokenizer = Vqvae(settings, rngs=nnx.Rngs(5))
    found = step_flops(CodeGeneration(images, None, tokenizer), 4)
    spec = ModuleSpec.of(tokenizer)
    pixels = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)
    with portable_trace():
        encode = counted(lambda arrays, x: spec.merge(arrays).encode(x), spec.stored(), pixels)
    assert encode.total > 0 and found.fixed == encode.total
    assert found.moved == step_flops(replace(images, image_tokenizer=None, image_size=None).open_for_plan(), 4).moved
