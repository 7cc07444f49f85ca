import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dalle_jax.layers.conv_blocks import space_to_depth, upsample
from dalle_jax.layers.quantize import Codebook, squared_distances
from dalle_jax.losses.quantization import reconstruction
from dalle_jax.models.vqvae import RefineStage, Vqvae, VqvaeConfig

PIXELS = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))


def config(stem="patch", **changes):
    values = {"downsample": 4, "width": 16, "blocks": 1, "codebook_size": 32, "code_width": 8, "stem": stem}
    return VqvaeConfig(**(values | changes))


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_decoding_the_codes_equals_the_reconstruction(stem):
    model = Vqvae(config(stem), rngs=nnx.Rngs(0))
    output = model(PIXELS)
    codes = model.encode(PIXELS)
    assert codes.shape == (2, 4, 4)
    np.testing.assert_array_equal(codes, output.assignments.codes)
    np.testing.assert_allclose(model.decode(codes), output.reconstruction.clip(0, 1), atol=1e-5)
    assert float(output.histogram.sum()) == 2 * 4 * 4


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_the_grid_is_the_image_size_divided_by_the_downsampling_factor(stem):
    model = Vqvae(config(stem, downsample=8), rngs=nnx.Rngs(0))
    assert model.encode(jnp.zeros((1, 24, 32, 3))).shape == (1, 3, 4)
    assert model.decode(jnp.zeros((1, 3, 4), jnp.int32)).shape == (1, 24, 32, 3)


def test_the_encoder_learns_through_the_quantizer_and_the_codebook_has_no_gradient():
    graph, parameters, rest = nnx.split(Vqvae(config(), rngs=nnx.Rngs(0)), nnx.Param, ...)
    assert all(isinstance(leaf, Codebook) for _, leaf in nnx.to_flat_state(rest))

    def loss(parameters):
        output = nnx.merge(graph, parameters, rest)(PIXELS)
        return jnp.square(output.reconstruction - PIXELS).mean()

    gradients = jax.grad(loss)(parameters)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients["encoder"])) > 1e-4


def test_the_commitment_weight_multiplies_the_squared_distance_to_the_code_vectors():
    outputs = {weight: Vqvae(config(commitment=weight), rngs=nnx.Rngs(0))(PIXELS) for weight in (0.25, 2.0)}
    np.testing.assert_allclose(outputs[2.0].commitment, 8 * outputs[0.25].commitment, rtol=1e-6)
    assert float(outputs[0.25].commitment) > 0


def test_the_patch_encoder_is_initially_a_rotation_of_each_patch():
    model = Vqvae(config(width=64, code_width=64), rngs=nnx.Rngs(0))
    vectors, squares = model.encoder(PIXELS).reshape(-1, 64), space_to_depth(2 * PIXELS - 1, 4).reshape(-1, 48)
    np.testing.assert_allclose(squared_distances(vectors, vectors), squared_distances(squares, squares), atol=1e-3)
    changed = model.encode(PIXELS.at[:, :4, :4].set(0.0)) != model.encode(PIXELS)
    assert not bool(changed.reshape(2, -1)[:, 1:].any())


def test_a_downsampling_factor_that_is_not_a_power_of_two_is_an_error():
    with pytest.raises(ValueError, match="power of 2"):
        Vqvae(config(downsample=6), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("refine", [(8,), (8, 8, 8)])
def test_the_residual_blocks_of_refining_stages_reach_over_the_edge_of_a_patch(refine):
    model = Vqvae(config(downsample=8, blocks=0, refine=refine), rngs=nnx.Rngs(0))

    def changed_columns():
        codes = jnp.zeros((1, 1, 4), jnp.int32)
        return jnp.abs(model.decode(codes) - model.decode(codes.at[0, 0, 3].set(1))).max((0, 1, 3))  # [W]

    assert changed_columns().shape == (32,)
    before = (changed_columns() > 0).sum()
    for stage in model.decoder.refine:  # the last convolution of each block starts at zero
        kernel = stage.block.convs[-1].kernel
        kernel[...] = jax.random.normal(jax.random.key(1), kernel.shape)
    assert (changed_columns() > 0).sum() > before


def test_refining_stages_start_as_nearest_neighbour_upsampling():
    stage = RefineStage(6, 4, config(), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 3, 2, 6))
    y = stage(x)
    assert y.shape == (1, 6, 4, 4)
    np.testing.assert_array_equal(y, upsample(y[:, ::2, ::2]))
    assert (y.std((1, 2)) > 0).all()


def test_a_last_convolution_of_3_x_3_reaches_over_the_edge_of_a_patch():
    def reached(side):
        model = Vqvae(config(downsample=4, blocks=0, refine=(8, 8), head_kernel=side), rngs=nnx.Rngs(0))
        codes = jnp.zeros((1, 1, 4), jnp.int32)
        return (jnp.abs(model.decode(codes) - model.decode(codes.at[0, 0, 3].set(1))).max((0, 1, 3)) > 0).sum()

    assert reached(3) == reached(1) + 1


def test_a_last_convolution_of_no_pixels_is_refused():
    with pytest.raises(ValueError, match="head_kernel: expected at least 1, got 0"):
        Vqvae(config(head_kernel=0), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("changes", [{"refine": (8, 8, 8)}, {"refine": (8,), "stem": "conv"}])
def test_refining_stages_below_one_pixel_and_those_of_another_stem_are_refused(changes):
    with pytest.raises(ValueError, match="refine: expected at most 2 widths and stem 'patch', got"):
        Vqvae(config(**changes), rngs=nnx.Rngs(0))


def test_it_overfits_one_batch():
    """The batch is two images of 16 random 4x4 squares each, as many as there are codes."""
    graph, parameters, rest = nnx.split(Vqvae(config(width=32, decay=0.9), rngs=nnx.Rngs(0)), nnx.Param, ...)
    optimizer = optax.adam(3e-3)
    pixels = jnp.repeat(jnp.repeat(jax.random.uniform(jax.random.key(3), (2, 4, 4, 3)), 4, axis=1), 4, axis=2)

    @jax.jit
    def step(parameters, rest, moments, key):
        def loss(parameters):
            model = nnx.merge(graph, parameters, rest, copy=True)
            output = model(pixels)
            model.quantizer.follow(output.assignments, key)
            value = reconstruction(pixels, output.reconstruction, absolute=0.0, squared=1.0)
            return value + output.commitment, (value, nnx.state(model, nnx.Not(nnx.Param)))

        gradients, (value, rest) = jax.grad(loss, has_aux=True)(parameters)
        updates, moments = optimizer.update(gradients, moments, parameters)
        return optax.apply_updates(parameters, updates), rest, moments, value

    moments, values = optimizer.init(parameters), []
    for index in range(300):
        parameters, rest, moments, value = step(parameters, rest, moments, jax.random.key(index))
        values.append(float(value))
    assert values[-1] < 1e-3 < values[0] / 10
    model = nnx.merge(graph, parameters, rest)
    assert float(jnp.abs(model.decode(model.encode(pixels)) - pixels).mean()) < 0.03
