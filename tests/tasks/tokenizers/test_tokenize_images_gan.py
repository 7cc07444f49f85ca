import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.losses.adversarial import pyramid_distance
from dalle_jax.models.lpips import Lpips, LpipsConfig
from dalle_jax.models.patch_discriminator import DiscriminatorConfig
from dalle_jax.models.vqgan import VqganConfig
from dalle_jax.parallel.layout import portable_trace
from dalle_jax.tasks.tokenizers.tokenize_images_gan import (
    Adversary,
    ImportedLpips,
    Pyramid,
    TokenizeImagesGan,
    VqganReconstruction,
)
from tests.jaxpr_products import products

MODEL = VqganConfig(
    width=32, multipliers=(1,), blocks=1, attention_levels=(), latent_width=4, code_width=4, codebook_size=8
)
ADVERSARY = Adversary(network=DiscriminatorConfig(width=4, layers=1), start=10, weight=0.7)
CONFIG = TokenizeImagesGan(
    model=MODEL,
    image_size=8,
    perceptual=Pyramid(levels=2, weight=0.5),
    adversary=ADVERSARY,
    l1=0.8,
    l2=0.3,
    codebook=0.4,
    commitment=1.5,
)
TASK = VqganReconstruction(CONFIG, lpips=None)
BATCH = {"pixels": jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8))}
VALUES = BATCH["pixels"] / 127.5 - 1
KEY = jax.random.key(0)


def drawn_by(generator):
    quantized = generator.quantize(generator.latents(VALUES))
    return generator.decoder(generator.out_of_codes(quantized.vectors)), quantized


def unlikeness_of(drawn):
    difference = drawn - VALUES
    pixels = 0.8 * jnp.abs(difference).mean() + 0.3 * jnp.square(difference).mean()
    return pixels + 0.5 * pyramid_distance(VALUES, drawn, levels=2).mean()


def codebook_of(quantized):
    held = jax.lax.stop_gradient
    loss = 0.4 * jnp.square(quantized.nearest - held(quantized.inputs)).mean()
    return loss + 1.5 * jnp.square(held(quantized.nearest) - quantized.inputs).mean()


def assert_trees_close(one, other):
    """Compare to 2e-4 of each parameter's largest entry; gradients that are only rounding, to the largest of all."""
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(other))
    for (path, a), (_, b) in zip(*(nnx.to_flat_state(tree) for tree in (one, other)), strict=True):
        scale = max(float(jnp.abs(b[...]).max()), 1e-2 * largest)
        np.testing.assert_allclose(a[...] / scale, b[...] / scale, atol=2e-4, err_msg=str(path))


@pytest.fixture(scope="module")
def split():
    return nnx.split(TASK.init(nnx.Rngs(0)))


@pytest.fixture(scope="module")
def plain(split):
    """Return the terms of the loss and their gradients, each from its own pass, as in the paper."""
    graph, state = split

    def losses(state):
        players = nnx.merge(graph, state)
        drawn, quantized = drawn_by(players.generator)
        return unlikeness_of(drawn), -players.discriminator(drawn).mean(), codebook_of(quantized)

    @jax.jit
    def compute(state):
        gradients = [jax.grad(lambda state, i=i: losses(state)[i])(state)["generator"] for i in range(3)]
        return losses(state), gradients

    return compute(state)


@pytest.fixture(scope="module")
def of_generator(split):
    """Return the compiled gradient and metrics of the generator's loss, as a function of the state and the step."""
    graph = split[0]
    return jax.jit(
        jax.grad(lambda state, step: TASK.generator_loss(nnx.merge(graph, state), {}, BATCH, KEY, step), has_aux=True)
    )


@pytest.fixture(scope="module")
def of_discriminator(split):
    """Return a compiled function of the state and the step: the logits by hand, and the task's loss and metrics."""
    graph = split[0]

    @jax.jit
    def compute(state, step):
        players = nnx.merge(graph, state)
        drawn = drawn_by(players.generator)[0]
        logits = players.discriminator(VALUES), players.discriminator(drawn)
        return logits, TASK.discriminator_loss(nnx.merge(graph, state), {}, BATCH, KEY, step)

    return compute


@pytest.mark.parametrize("step", [9, 10])
def test_loss_and_gradient_of_the_generator_are_those_of_the_sum_with_the_adaptive_weight(
    split, plain, of_generator, step
):
    (unlikeness, fooling, codebook), gradients = plain
    kernels = [one["decoder"]["output"]["kernel"][...] for one in gradients[:2]]
    ratio = jnp.linalg.norm(kernels[0].ravel()) / (jnp.linalg.norm(kernels[1].ravel()) + 1e-4)
    weight = 0.7 * ratio.clip(0, 1e4) * (step >= 10)
    found, sums = of_generator(split[1], jnp.int32(step))
    np.testing.assert_allclose(sums["adversary/weight"][0], weight, rtol=1e-3)
    np.testing.assert_allclose(sums["loss"][0], unlikeness + weight * fooling + codebook, rtol=1e-4)
    expected = jax.tree.map(lambda a, b, c: a + weight * b + c, *gradients)
    assert_trees_close(found["generator"], expected)


def test_the_discriminator_minimises_the_hinge_loss_from_its_start_on(split, of_discriminator):
    (real, fake), (loss, sums) = of_discriminator(split[1], jnp.int32(10))
    expected = 0.5 * (jnp.maximum(0, 1 - real).mean() + jnp.maximum(0, 1 + fake).mean())
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(sums["discriminator/real"][0], real.mean(), rtol=1e-5)
    assert [objective.starts for objective in TASK.objectives()] == [0, 10]


def test_figures_of_the_adversary_have_no_weight_before_it_plays(split, of_generator):
    sums = [of_generator(split[1], jnp.int32(step))[1] for step in (9, 10)]
    assert [float(one["adversary/fooling"][1]) for one in sums] == [0.0, 1.0]
    assert [float(one["adversary/weight"][1]) for one in sums] == [0.0, 1.0]


def test_before_its_start_the_adversary_is_not_computed(split):
    graph, state = split

    def gradient(state, step):
        return jax.grad(lambda state: TASK.generator_loss(nnx.merge(graph, state), {}, BATCH, KEY, step)[0])(state)

    with portable_trace():
        jaxpr = jax.make_jaxpr(gradient)(state, jnp.int32(0)).jaxpr
    # The kernels of the discriminator alone have a side of 4.
    every, always = (
        sum((4, 4) in {one.aval.shape[:2] for one in eqn.invars} for eqn in products(jaxpr, branches=branches))
        for branches in (True, False)
    )
    assert (every, always) == (6, 0)  # three convolutions, forward and back to the images


def test_every_parameter_is_trained_by_exactly_one_objective(split):
    state = split[1]
    found = [nnx.filterlib.to_predicate(objective.trains) for objective in TASK.objectives()]
    for path, variable in nnx.to_flat_state(state):
        assert [bool(trains(path, variable)) for trains in found] == [path[0] == "generator", path[0] != "generator"]


def test_a_pyramid_replaces_missing_lpips_with_a_warning_and_only_if_the_config_names_one(tmp_path, capsys):
    absent = str(tmp_path / "none")
    told = TokenizeImagesGan(model=MODEL, image_size=8, perceptual=ImportedLpips(absent, otherwise=Pyramid()))
    assert told.open_for_plan().frozen() == {}
    said = capsys.readouterr().err
    assert f"expected LPIPS's weights in {absent}, found none" in said and "NOT LPIPS" in said
    assert CONFIG.open_for_plan().frozen() == {} and "NOT LPIPS" in capsys.readouterr().err
    silent = TokenizeImagesGan(model=MODEL, image_size=8, perceptual=ImportedLpips(absent))
    with pytest.raises(UserError, match=r"import lpips SOURCE .* or name a distance to train with instead"):
        silent.open_for_plan()
    with pytest.raises(ValueError, match="lpips: expected a network"):
        VqganReconstruction(silent, lpips=None)


def test_the_weight_of_imported_lpips_multiplies_its_distance():
    lpips = Lpips(LpipsConfig(widths=(4, 4), depths=(1, 1)), rngs=nnx.Rngs(0))
    drawn = jnp.zeros_like(VALUES)
    found = []
    for weight in (0.0, 1.0, 3.0):
        settings = TokenizeImagesGan(model=MODEL, image_size=8, perceptual=ImportedLpips("lpips", weight))
        task = VqganReconstruction(settings, lpips)
        found.append(float(task.unlikeness(task.frozen(), VALUES, drawn)))
    distance = float(lpips(VALUES, drawn).mean())
    assert distance > 0
    np.testing.assert_allclose(np.subtract(found, found[0]), [0.0, distance, 3 * distance], rtol=1e-4, atol=1e-6)


def test_a_pyramid_with_more_levels_than_the_image_allows_is_refused():
    with pytest.raises(ValueError, match="image_size: expected a multiple of 16, for a pyramid of 5 levels, got 8"):
        TokenizeImagesGan(model=MODEL, image_size=8, perceptual=Pyramid(levels=5))


def test_model_gin_has_the_prefix_of_the_generator():
    assert b"prefix = 'generator.'" in TASK.model_files()["model.gin"]
