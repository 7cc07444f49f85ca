"""The task that trains a prior between the embeddings of a frozen CLIP."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.models.clip import Clip, ClipConfig, TowerConfig
from dalle_jax.models.priors.mlp_prior import MlpPriorConfig
from dalle_jax.models.priors.prior import PriorOptions, read_text
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.predict_embeddings import EmbeddingPrediction, PredictEmbeddings

TOWER = TowerConfig(width=8, layers=1, heads=2)
CLIP = ClipConfig(image_size=16, patch=8, vision=TOWER, vocab_size=9, text_length=6, text=TOWER, embed_width=6)
MODEL = MlpPriorConfig(embed_width=6, width=16, hidden=8, layers=1)
ROWS = 4


@pytest.fixture(scope="module")
def task() -> EmbeddingPrediction:
    config = PredictEmbeddings(model=MODEL, captions=Captions(file="unread"), image_size=16, text_length=6, clip="clip")
    return EmbeddingPrediction(config, None, Clip(CLIP, rngs=nnx.Rngs(2)))


@pytest.fixture(scope="module")
def batch() -> dict:
    rng = np.random.default_rng(0)
    return {
        "pixels": jnp.asarray(rng.integers(0, 256, (ROWS, 16, 16, 3), dtype=np.uint8)),
        "text": jnp.asarray(rng.integers(1, 9, (ROWS, 6)), jnp.int32),
    }


def test_a_new_prior_predicts_zero_whose_squared_error_is_the_scaled_variance_of_1(task, batch):
    module = task.init(nnx.Rngs(0))
    loss = task.loss(module, task.frozen(), batch, jax.random.key(0), jnp.int32(0))[0]
    np.testing.assert_allclose(loss, 1.0, rtol=1e-5)


def test_the_evaluation_compares_samples_and_texts_with_the_images(task, batch):
    module = task.init(nnx.Rngs(0))
    sums = task.evaluate(module, task.frozen(), batch, jax.random.key(1))
    image, text = task.clip.encode_image(batch["pixels"] / 255.0), task.clip.encode_text(batch["text"])
    np.testing.assert_allclose(sums["text_cosine"][0] / ROWS, np.diag(image @ text.T).mean(), rtol=1e-5)
    condition = read_text(task.clip, batch["text"], unit_vectors=True)
    drawn = module.draw(condition, condition, jax.random.split(jax.random.key(0), (ROWS, 1)), PriorOptions())[:, 0]
    np.testing.assert_allclose(sums["prior_cosine"][0], np.diag(image @ drawn.T).sum(), rtol=1e-4, atol=1e-5)


def test_a_clip_of_another_size_is_an_error(task):
    with pytest.raises(UserError, match=r"task.clip: expected .* \(5, 16, 6\), got \(6, 16, 6\) in clip"):
        replace(task, config=replace(task.config, model=replace(MODEL, embed_width=5)))
