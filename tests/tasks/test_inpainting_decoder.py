"""The task of a pixel decoder that inpaints: it starts from a trained decoder, and its masks come from the seed."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.trained_diffusion import ImageSampling, TrainedDiffusion
from dalle_jax.images.random_masks import RandomMasks
from dalle_jax.models.clip import ClipConfig, TowerConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.load.models import ModelFile
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.denoise_images import DecoderInputs, DenoiseImages, ImageDecoding
from dalle_jax.train.checkpoints.save_weights import save_weights, with_weights
from dalle_jax.train.optim.ema import ConstantEma
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.state import ModuleSpec, state_spec
from dalle_jax.train.task import ExtendsTrained
from dalle_jax.train.trainer import Trainer
from tests.small_denoisers import decoder_config, random_module

LAYOUT = Layout(make_mesh(Mesh(1, 1, 1)), Rules())
MODEL = decoder_config()
WITH_MASK = replace(MODEL, unet=replace(MODEL.unet, extra_channels=4))
PLAIN = DenoiseImages(
    model=MODEL, captions=Captions(file="absent"), blank_clips=1.0, sampling=ImageSampling(Ddim(), steps=2)
)
INPAINTING = replace(PLAIN, model=WITH_MASK, masks=RandomMasks())
STEP = jnp.int32(0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a plain task, its trained module, and its run folder."""
    task, folder = PLAIN.open_for_plan(), tmp_path_factory.mktemp("trained")
    module = random_module(lambda: task.init(nnx.Rngs(0)))
    files = {"model.gin": render(ModelFile(model=MODEL, prefix="network.")).encode()}
    save_weights(folder, module, "", files)
    return task, module, folder


@pytest.fixture(scope="module")
def started(trained):
    """Return the inpainting task, the state that starts from the folder, and its module."""
    task = INPAINTING.open_for_plan()
    trainer = Trainer(steps=1, schedule=ConstantRate(0.0), ema=ConstantEma(0.5))
    spec = state_spec(task, trainer, LAYOUT)
    empty = jax.tree.map(
        lambda leaf, sharding: jax.device_put(np.zeros(leaf.shape, leaf.dtype), sharding), spec.abstract, spec.shardings
    )
    state = with_weights(empty, task, trained[2], LAYOUT)
    return task, state, spec.module_spec.merge(state.learned.params, state.learned.non_params)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    pixels, text = rng.integers(0, 256, (4, 8, 8, 3), np.uint8), rng.integers(0, 9, (4, 6), np.int32)
    return {"pixels": jnp.asarray(pixels), "text": jnp.asarray(text)}


def loss_of(task, module, batch, key=0) -> float:
    return float(jax.jit(lambda batch, key: task.loss(module, {}, batch, key, STEP)[0])(batch, jax.random.key(key)))


def test_new_channels_start_at_zero_and_all_else_is_restored(trained, started):
    before, kernel = ModuleSpec.of(trained[1]).split(trained[1])[0], "network.unet.input.kernel"
    for params in (started[1].learned.params, started[1].learned.ema_params):
        assert params.keys() == before.keys()
        for name in params.keys() - {kernel}:
            np.testing.assert_array_equal(params[name], before[name], err_msg=name)
        np.testing.assert_array_equal(params[kernel][:, :, :3], before[kernel])
        assert params[kernel].shape[2] == 7 and not params[kernel][:, :, 3:].any()


def test_the_first_loss_is_that_of_the_trained_decoder_to_rounding(trained, started, batch):
    task, _, module = started
    assert isinstance(task, ExtendsTrained)
    np.testing.assert_allclose(loss_of(task, module, batch), loss_of(trained[0], trained[1], batch), rtol=1e-5)


def test_a_decoder_that_inpaints_already_is_continued_as_it_is(started, tmp_path):
    task, state, module = started
    module = nnx.clone(module)
    module.network.unet.input.kernel[...] += 1.0
    save_weights(tmp_path, module, "", {"model.gin": render(ModelFile(model=WITH_MASK, prefix="network.")).encode()})
    again = with_weights(state, task, tmp_path, LAYOUT).learned.params["network.unet.input.kernel"]
    np.testing.assert_array_equal(again, module.network.unet.input.kernel[...])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            replace(WITH_MASK, diffusion=TrainedDiffusion(prediction="v"), image_tokens=2),
            r"model.image_tokens: expected 4, got 2; model.diffusion.prediction: expected 'noise', got 'v'",
        ),
        (replace(WITH_MASK, unet=replace(WITH_MASK.unet, blocks=2)), r"model.unet.blocks: expected 1, got 2"),
    ],
)
def test_a_decoder_that_differs_in_more_is_an_error_that_names_each_field(trained, model, message):
    task = replace(INPAINTING, model=model).open_for_plan()
    with pytest.raises(UserError, match=rf"task\.model: it does not fit trainer\.initial, .*: {message}$"):
        task.smaller(trained[2])


def test_a_folder_of_another_network_is_an_error(tmp_path):
    tower = TowerConfig(width=8, layers=1, heads=2)
    clip = ClipConfig(image_size=8, patch=8, vision=tower, vocab_size=9, text_length=6, text=tower, embed_width=6)
    (tmp_path / "model.gin").write_text(render(ModelFile(model=clip)))
    with pytest.raises(UserError, match="expected @ClipConfig, got @PixelDecoderConfig"):
        INPAINTING.open_for_plan().smaller(tmp_path)


def test_the_masks_come_from_the_key_and_hide_pixels(started, batch):
    task = started[0]
    draws = {key: task.inputs({}, batch, jax.random.key(key))[1].known for key in (0, 1)}
    again = task.inputs({}, batch, jax.random.key(0))[1].known
    np.testing.assert_array_equal(draws[0].mask, again.mask)
    assert (np.asarray(draws[0].mask) != np.asarray(draws[1].mask)).any()
    assert set(np.unique(draws[0].mask)) == {0.0, 1.0} and draws[0].mask.shape == (4, 8, 8, 1)
    fixed = [task.inputs({}, batch, None)[1].known.mask for _ in range(2)]
    np.testing.assert_array_equal(*fixed)


def test_only_pixels_that_are_not_hidden_enter_the_loss_through_the_new_channels(started, batch):
    """The loss compares with the whole image, so only the network's input is watched."""
    task, _, module = started
    images, (guide, known) = task.inputs({}, batch, jax.random.key(3))
    level = task.diffusion.level(jnp.full(4, 0.5))
    module = nnx.clone(module)
    module.network.unet.input.kernel[...] += 0.1

    @jax.jit
    def predicted(known):
        return task.predict(module.network, images, level, DecoderInputs(guide, known), None).prediction

    other = known._replace(image=jnp.where(known.mask > 0, known.image, 1.0))
    np.testing.assert_array_equal(predicted(known), predicted(other))
    seen = known._replace(image=jnp.where(known.mask > 0, -known.image, known.image))
    assert np.abs(predicted(known) - predicted(seen)).max() > 1e-4


def test_images_of_training_are_the_batchs_their_holes_and_filled_ones(started, batch):
    task, _, module = started
    images = jax.jit(lambda batch, key: task.images(module, {}, batch, key))(batch, jax.random.key(0))
    mask = task.inputs({}, batch, None)[1].known.mask[..., 0] > 0
    given, holes, filled = np.split(np.asarray(images), 3)
    np.testing.assert_allclose(holes, np.where(mask[..., None], given, 0.5), atol=1e-6)
    np.testing.assert_allclose(filled[mask], given[mask], atol=1e-5)
    assert np.abs(filled[~mask] - given[~mask]).max() > 0.01


def test_masks_and_channels_go_together():
    with pytest.raises(ValueError, match=r"masks: expected @RandomMasks .* got None with 4 extra channels"):
        replace(PLAIN, model=WITH_MASK)
    with pytest.raises(ValueError, match=r"masks: expected .* got @RandomMasks with 0 extra channels"):
        replace(PLAIN, masks=RandomMasks())
    assert isinstance(INPAINTING.open_for_plan(), ImageDecoding)
