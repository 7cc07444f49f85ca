"""The task that trains a pixel decoder, on small networks that are made here."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.diffusion_training import DiffusionTraining, ImportanceTimes
from dalle_jax.diffusion.levels import add_noise
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.trained_diffusion import ImageSampling, TrainedDiffusion
from dalle_jax.models.clip import Clip, ClipConfig, TowerConfig
from dalle_jax.models.code_denoiser import Guide
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.load.models import ModelFile
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.denoise_images import DenoiseImages, ImageDecoding
from dalle_jax.tasks.image_denoising import TrainedDenoiser
from dalle_jax.text.sentencepiece import train_sentencepiece
from tests.small_denoisers import decoder_config, random_module

TOWER = TowerConfig(width=8, layers=1, heads=2)
ROWS = 4
STEP = jnp.int32(0)


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> ImageDecoding:
    path = tmp_path_factory.mktemp("text") / "text.model"
    path.write_bytes(train_sentencepiece(["a red circle", "a blue square"] * 5, 30, "bpe", 0))
    captions = Captions(file=str(path))
    opened = captions.open(6)
    clip = ClipConfig(
        image_size=16, patch=8, vision=TOWER, vocab_size=opened.tokenizer.vocab_size, text_length=6, text=TOWER,
        embed_width=6,
    )  # fmt: skip
    model = replace(decoder_config(opened.tokenizer.vocab_size), diffusion=TrainedDiffusion(CosineNoise(5), "noise"))
    config = DenoiseImages(
        model=model, captions=captions, clip="clip", clip_size=16, blank_captions=0.0, blank_clips=0.0,
        sampling=ImageSampling(Ddim(), steps=2),
    )  # fmt: skip
    return ImageDecoding(config, opened, Clip(clip, rngs=nnx.Rngs(2)))


@pytest.fixture(scope="module")
def module(task) -> TrainedDenoiser:
    return random_module(lambda: task.init(nnx.Rngs(0)))


@pytest.fixture(scope="module")
def batch(task) -> dict:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(ROWS)]
    prepared = task.prepare({"image": images, "caption": ["a red circle", "a blue square"] * 2}, None)
    spec = task.batch_spec(ROWS)
    assert {name: (one.shape, one.dtype) for name, one in prepared.items()} == {
        name: (one.shape, one.dtype) for name, one in spec.items()
    }
    return {name: jnp.asarray(one) for name, one in prepared.items()}


def with_settings(task, **changes) -> ImageDecoding:
    return replace(task, config=replace(task.config, **changes))


def loss_of(task, module, batch, key=0) -> float:
    return float(
        jax.jit(lambda batch, key: task.loss(module, task.frozen(), batch, key, STEP)[0])(batch, jax.random.key(key))
    )


def test_the_loss_is_the_error_of_the_noise_at_drawn_timesteps(task, module, batch):
    pixels = batch["pixels"] / 255.0
    x0 = 2 * jax.image.resize(pixels, (ROWS, 8, 8, 3), "bicubic").clip(0, 1) - 1
    guide = Guide(batch["text"], task.clip.encode_image(pixels), jnp.ones(ROWS, bool))
    _, level_key, noise_key, _ = jax.random.split(jax.random.key(0), 4)
    times = jax.vmap(jax.random.uniform)(jax.random.split(level_key, ROWS))
    level, noise = task.diffusion.level(times), jax.random.normal(noise_key, x0.shape)
    predicted = module.network(add_noise(x0, noise, level), level, guide).prediction
    np.testing.assert_allclose(loss_of(task, module, batch), jnp.square(predicted - noise).mean(), rtol=1e-5)


def test_the_stated_shares_of_captions_and_embeddings_are_dropped(task, module, batch):
    other_text = dict(batch, text=batch["text"][:, ::-1])
    without_text = with_settings(task, blank_captions=1.0)
    assert loss_of(without_text, module, batch) == loss_of(without_text, module, other_text)
    kept = with_settings(task, blank_clips=1.0)
    assert loss_of(kept, module, batch) != loss_of(kept, module, other_text)
    turned = replace(kept, clip=Clip(task.clip.config, rngs=nnx.Rngs(9)))
    assert loss_of(kept, module, batch) == loss_of(turned, module, batch)


def test_the_evaluation_sees_the_embedding_alone_the_caption_alone_and_neither(task, module, batch):
    @jax.jit
    def evaluated(frozen, batch):
        sums = task.evaluate(module, frozen, batch, jax.random.key(1))
        return {name: total / weight for name, (total, weight) in sums.items()}

    plain = evaluated(task.frozen(), batch)
    text = evaluated(task.frozen(), dict(batch, text=batch["text"][:, ::-1]))
    clip = evaluated({"clip": Clip(task.clip.config, rngs=nnx.Rngs(9))}, batch)
    assert {name for name in plain if plain[name] != text[name]} == {"mse_text", "loss"}
    assert {name for name in plain if plain[name] != clip[name]} == {"mse_clip", "loss"}


def test_images_are_the_batchs_then_samples(task, module, batch):
    images = jax.jit(lambda batch, key: task.images(module, task.frozen(), batch, key))(batch, jax.random.key(0))
    assert images.shape == (2 * ROWS, 8, 8, 3)
    np.testing.assert_allclose(
        images[:ROWS], jax.image.resize(batch["pixels"] / 255.0, (ROWS, 8, 8, 3), "bicubic").clip(0, 1), atol=1e-6
    )
    assert images.min() >= 0 and images.max() <= 1 and np.abs(np.diff(images[ROWS:], axis=0)).max() > 1e-3


def test_importance_sampling_stores_the_losses_of_a_step(task, batch):
    importance = with_settings(task, training=DiffusionTraining(ImportanceTimes(kept=2)))
    module = importance.init(nnx.Rngs(0))

    @jax.jit
    def step(state, key):
        one = nnx.merge(graph, state)
        loss, _ = importance.loss(one, importance.frozen(), batch, key, STEP)
        return nnx.split(one)[1], loss

    graph, state = nnx.split(module)
    total = 0.0
    for number in range(2):
        state, loss = step(state, jax.random.key(number))
        total += float(loss)
    history = nnx.merge(graph, state).history
    assert int(history.counts.sum()) == min(2 * ROWS, int(history.counts.sum())) > 0
    assert history.losses.shape == (5, 2)
    # The history is not full, so the timesteps were uniform and the loss is the mean of the stored ones.
    if int(history.counts.sum()) == 2 * ROWS:
        np.testing.assert_allclose(history.losses.sum() / ROWS, total, rtol=1e-5)
    assert task.init(nnx.Rngs(0)).history is None


def test_the_model_file_names_the_clip_and_the_networks_path(task):
    file = loads(task.model_files()["model.gin"].decode(), ModelFile)
    assert file.model == task.config.model and file.prefix == "network."
    assert {name: folder.rpartition("/")[2] for name, folder in file.needs.items()} == {"clip": "clip"}


def test_networks_that_do_not_fit_are_an_error_with_both_sizes(task):
    with pytest.raises(UserError, match=r"embed_width and image_size \(6, 8\).* got \(6, 16\)"):
        with_settings(task, clip_size=None)
    with pytest.raises(UserError, match=r"task\.model\.vocab_size: expected"):
        with_settings(task, model=replace(task.config.model, vocab_size=7))


def test_training_without_a_clip_must_be_asked_for(task):
    layout = Layout(make_mesh(Mesh(1, 1, 1)), Rules())
    with pytest.raises(UserError, match=r"task\.clip: expected the folder of a trained CLIP.* got None with .* 0\.0"):
        replace(task.config, clip=None).open(layout)
    alone = replace(task.config, clip=None, blank_clips=1.0).open(layout)
    assert alone.frozen() == {} and alone.config.source_size == 16
    with pytest.raises(ValueError, match=r"blank_clips: expected a share in \[0, 1\], got 1\.5"):
        replace(task.config, blank_clips=1.5)
