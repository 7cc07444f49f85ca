"""The task that trains a CLIP whose image embedding names the codes of its image."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.losses.cross_entropy import cross_entropy
from dalle_jax.models.clip import ClipConfig, TowerConfig
from dalle_jax.models.heads.code_readout import CodeReadoutConfig, ReadableClip
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.load.models import ModelFile
from dalle_jax.tasks.align_readable_images import AlignReadableImages, ReadableAlignment
from dalle_jax.tasks.align_text_images import AlignTextImages, TextImageAlignment
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.text.sentencepiece import train_sentencepiece

TOWER = TowerConfig(width=8, layers=1, heads=2)
ROWS = 4
STEP = jnp.int32(0)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> ReadableAlignment:
    path = tmp_path_factory.mktemp("text") / "text.model"
    path.write_bytes(train_sentencepiece(["a red circle", "a blue square"] * 5, 30, "bpe", 0))
    captions = Captions(file=str(path))
    opened = captions.open(6)
    clip = ClipConfig(
        image_size=16, patch=8, vision=TOWER, vocab_size=opened.tokenizer.vocab_size, text_length=6, text=TOWER,
        embed_width=6,
    )  # fmt: skip
    tokenizer = Vqvae(
        VqvaeConfig(downsample=4, width=8, blocks=1, codebook_size=16, code_width=4, stem="patch"), rngs=nnx.Rngs(1)
    )
    align = AlignTextImages(model=clip, captions=captions, image_tokenizer="tokenizer")
    readout = CodeReadoutConfig(codebook_size=16, code_width=4, grid=(4, 4), hidden=8, width=8)
    config = AlignReadableImages(align=align, readout=readout, weight=2.0)
    return ReadableAlignment(config, TextImageAlignment(align, opened, tokenizer))


@pytest.fixture(scope="module")
def module(task) -> ReadableClip:
    return task.init(nnx.Rngs(0))


@pytest.fixture(scope="module")
def batch() -> dict:
    rng = np.random.default_rng(0)
    return {
        "pixels": jnp.asarray(rng.integers(0, 256, (ROWS, 16, 16, 3), dtype=np.uint8)),
        "text": jnp.asarray(rng.integers(1, 9, (ROWS, 6)), jnp.int32),
        "caption_group": jnp.arange(ROWS, dtype=jnp.int32),
    }


def test_the_loss_is_clips_plus_the_weighted_nats_of_the_codes(task, module, batch):

    @nnx.jit
    def losses(module, tokenizer, batch):
        loss, sums = task.loss(module, task.frozen(), batch, KEY, STEP)
        contrast = task.align.loss(module.clip, task.frozen(), batch, KEY, STEP)[0]
        pixels = batch["pixels"] / 255.0
        codes = tokenizer.encode(pixels)
        seen = jnp.concatenate([tokenizer.decode(codes[:2]), pixels[2:]])  # half of the images are reconstructions
        nats = cross_entropy(module.readout(module.clip.encode_image(seen)), codes.reshape(ROWS, -1)).mean()
        return loss, sums, contrast, nats

    loss, sums, contrast, nats = losses(module, task.align.image_tokenizer, batch)
    np.testing.assert_allclose(loss, contrast + 2.0 * nats, rtol=1e-5)
    np.testing.assert_allclose(sums["read_nll"][0] / sums["read_nll"][1], nats, rtol=1e-5)


def test_the_head_learns_the_codes_through_the_embedding(task, module, batch):
    """The gradient of the nats reaches the image tower and not the text tower."""

    def nats(module, batch):
        return task.embed(module, task.frozen(), batch, KEY, STEP).nats.mean()

    gradients = nnx.jit(nnx.grad(nats))(module, batch)
    assert np.abs(gradients.clip.vision.project.kernel[...]).max() > 1e-6
    assert np.abs(gradients.clip.text.project.kernel[...]).max() == 0


def test_the_evaluation_adds_the_nats_and_the_cosine_of_the_pairs(task, module, batch):
    @nnx.jit
    def evaluate(module, batch):
        vectors = module.clip.encode_image(batch["pixels"] / 255.0), module.clip.encode_text(batch["text"])
        return task.evaluate(module, task.frozen(), batch, KEY), vectors

    sums, (image, text) = evaluate(module, batch)
    np.testing.assert_allclose(sums["pair_cosine"][0] / ROWS, np.diag(image @ text.T).mean(), rtol=1e-5)
    assert {"retrieval_top1", "loss", "read_nll"} < sums.keys()


def test_the_saved_model_is_the_clip_alone(task):
    file = loads(task.model_files()["model.gin"].decode(), ModelFile)
    assert (file.model, file.prefix) == (task.config.align.model, "clip.")


def test_an_image_tokenizer_of_another_grid_is_an_error(task):
    readout = replace(task.config.readout, grid=(2, 2))
    with pytest.raises(UserError, match=r"task.readout: expected .* \(16, 4, \(4, 4\)\).*got \(16, 4, \(2, 2\)\)"):
        replace(task, config=replace(task.config, readout=readout))
    without = replace(task.config, align=replace(task.config.align, image_tokenizer=None))
    with pytest.raises(UserError, match=r"task.align.image_tokenizer: expected the folder of an image tokenizer"):
        without.open(Layout(make_mesh(Mesh(1, 1, 1)), Rules()))
    with pytest.raises(ValueError, match="weight: expected more than 0"):
        replace(task.config, weight=0.0)
