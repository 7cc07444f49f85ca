"""The task that trains a code denoiser, on small networks that are made here."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.code_vectors import own_likelihood
from dalle_jax.losses.cross_entropy import cross_entropy
from dalle_jax.models.clip import Clip, ClipConfig, TowerConfig
from dalle_jax.models.code_denoiser import CodeDenoiser, CodeDenoiserConfig, Guide
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.load.models import ModelFile
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.denoise_codes import CodeDenoising, DenoiseCodes
from dalle_jax.text.sentencepiece import train_sentencepiece

TOWER = TowerConfig(width=8, layers=1, heads=2)
VQVAE = VqvaeConfig(downsample=4, width=8, blocks=1, codebook_size=16, code_width=4, stem="patch")
ROWS = 4
STEP = jnp.int32(0)


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> CodeDenoising:
    path = tmp_path_factory.mktemp("text") / "text.model"
    path.write_bytes(train_sentencepiece(["a red circle", "a blue square"] * 5, 30, "bpe", 0))
    captions = Captions(file=str(path))
    opened = captions.open(6)
    vocabulary = opened.tokenizer.vocab_size
    clip = ClipConfig(
        image_size=16, patch=8, vision=TOWER, vocab_size=vocabulary, text_length=6, text=TOWER, embed_width=6
    )
    model = CodeDenoiserConfig(
        text_vocab=vocabulary, text_length=6, embed_width=6, codebook_size=16, code_width=4, grid=(4, 4), width=16,
        layers=1, heads=2,
    )  # fmt: skip
    config = DenoiseCodes(
        model=model, captions=captions, image_size=16, image_tokenizer="tokenizer", clip="clip", steps=2
    )
    return CodeDenoising(config, opened, Vqvae(VQVAE, rngs=nnx.Rngs(1)), Clip(clip, rngs=nnx.Rngs(2)))


@pytest.fixture(scope="module")
def other_clip(task) -> CodeDenoising:
    """Return the task with a CLIP of different weights."""
    return replace(task, clip=Clip(task.clip.config, rngs=nnx.Rngs(9)))


@pytest.fixture(scope="module")
def module(task) -> CodeDenoiser:
    return task.init(nnx.Rngs(0))


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


def with_settings(task, **changes) -> CodeDenoising:
    return replace(task, config=replace(task.config, **changes))


def loss_of(task, module):
    """Return the compiled loss as a function of the batch, and of the frozen networks if they are others."""
    compiled = nnx.jit(lambda module, frozen, batch: task.loss(module, frozen, batch, jax.random.key(0), STEP)[0])
    return lambda batch, frozen=None: float(compiled(module, task.frozen() if frozen is None else frozen, batch))


def test_at_no_signal_the_loss_is_the_networks_cross_entropy_of_the_codes(task, module, batch):
    plain = with_settings(task, blank_captions=0.0, blank_clips=0.0, time_mean=-50.0)

    @nnx.jit
    def by_hand(module, tokenizer, clip, batch):
        pixels, time = batch["pixels"] / 255.0, jnp.zeros(ROWS)
        noise = jax.random.normal(jax.random.split(jax.random.key(0), 4)[1], (ROWS, 16, 4))
        guide = Guide(batch["text"], clip.encode_image(pixels), jnp.ones(ROWS, bool))
        loss = cross_entropy(module(noise, time, guide), tokenizer.encode(pixels).reshape(ROWS, -1)).mean()
        return loss, own_likelihood(noise, time, module.code_vectors)

    expected, likelihood = by_hand(module, task.image_tokenizer, task.clip, batch)
    np.testing.assert_allclose(likelihood, 0.0)
    np.testing.assert_allclose(loss_of(plain, module)(batch), expected, rtol=1e-5)


def test_with_little_noise_the_own_input_of_a_place_names_its_code(task, module, batch):
    assert loss_of(with_settings(task, time_mean=50.0), module)(batch) < 1e-3
    assert loss_of(with_settings(task, time_mean=-50.0), module)(batch) > 1.0


def test_the_stated_shares_of_captions_and_embeddings_are_dropped(task, other_clip, module, batch):
    other_text = dict(batch, text=batch["text"][:, ::-1])
    without_text = loss_of(with_settings(task, blank_captions=1 - 1e-7, blank_clips=0.0), module)
    assert without_text(batch) == without_text(other_text)
    kept = loss_of(with_settings(task, blank_captions=0.0, blank_clips=1 - 1e-7), module)
    assert kept(batch) != kept(other_text)
    assert kept(batch) == kept(batch, other_clip.frozen())


def test_the_evaluation_sees_the_embedding_alone_the_caption_alone_and_neither(task, other_clip, module, batch):
    compiled = nnx.jit(lambda module, frozen, batch: task.evaluate(module, frozen, batch, jax.random.key(1)))

    def evaluated(frozen, batch):
        sums = compiled(module, frozen, batch)
        return {name: float(total) / float(weight) for name, (total, weight) in sums.items()}

    plain = evaluated(task.frozen(), batch)
    text = evaluated(task.frozen(), dict(batch, text=batch["text"][:, ::-1]))
    clip = evaluated(other_clip.frozen(), batch)
    assert {name for name in plain if plain[name] != text[name]} == {"nll_text"}
    assert {name for name in plain if plain[name] != clip[name]} == {"nll_clip"}


def test_images_are_reconstructions_then_samples(task, module, batch):
    @nnx.jit
    def show(module, frozen, tokenizer, batch):
        codes = tokenizer.encode(batch["pixels"] / 255.0)
        return task.images(module, frozen, batch, jax.random.key(0)), tokenizer.decode(codes)

    images, reconstructions = show(module, task.frozen(), task.image_tokenizer, batch)
    np.testing.assert_allclose(images[:ROWS], reconstructions, atol=1e-6)
    assert images.shape == (2 * ROWS, 16, 16, 3)
    assert replace(task, clip=None).images(module, {}, batch, jax.random.key(0)) is None


def test_the_model_file_names_the_networks_that_sampling_needs(task):
    file = loads(task.model_files()["model.gin"].decode(), ModelFile)
    assert file.model == task.config.model
    assert {name: folder.rpartition("/")[2] for name, folder in file.needs.items()} == {
        "image_tokenizer": "tokenizer", "clip": "clip"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_size": 8}, r"expected codebook_size, code_width and grid \(16, 4, \(4, 4\)\).*got \(8, 4"),
        ({"grid": (2, 2)}, r"got \(16, 4, \(2, 2\)\)"),
        ({"embed_width": 5}, r"task.clip: expected a CLIP with embed_width and image_size \(5, 16\).*got \(6, 16\)"),
        ({"text_vocab": 7}, "task.model.text_vocab: expected"),
    ],
)
def test_networks_that_do_not_fit_are_an_error_with_both_sizes(task, changes, message):
    with pytest.raises(UserError, match=message):
        with_settings(task, model=replace(task.config.model, **changes))


def test_training_needs_both_frozen_networks(task):
    layout = Layout(make_mesh(Mesh(1, 1, 1)), Rules())
    with pytest.raises(UserError, match=r"task.clip: expected the folder of a trained model, got None"):
        replace(task.config, clip=None).open(layout)
    with pytest.raises(ValueError, match=r"blank_clips: expected a share in \[0, 1\), got 1.0"):
        replace(task.config, blank_clips=1.0)
    with pytest.raises(ValueError, match=r"expected more than 0 and at least 1, got 1\.0, 0"):
        replace(task.config, steps=0)
