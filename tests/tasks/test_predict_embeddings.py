"""The task that trains priors between the vectors of a frozen CLIP: its losses, its statistics and its checks."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.arrays import ExampleBatch
from dalle_jax.config.errors import UserError
from dalle_jax.losses.contrastive import text_given_image
from dalle_jax.models.clip import Clip, ClipConfig, TowerConfig
from dalle_jax.models.priors.autoregressive_prior import AutoregressivePriorConfig
from dalle_jax.models.priors.diffusion_prior import DiffusionPriorConfig
from dalle_jax.models.priors.mlp_prior import MlpPriorConfig
from dalle_jax.models.priors.one_step_prior import OneStepPriorConfig
from dalle_jax.models.priors.prior import TextCondition, VectorSample, read_text
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.predict_embeddings import EVALUATED, EmbeddingPrediction, PredictEmbeddings
from dalle_jax.tasks.prior_losses import drop_text
from dalle_jax.train.measure import measured

TOWER = TowerConfig(width=8, layers=1, heads=2)
CLIP = ClipConfig(image_size=16, patch=8, vision=TOWER, vocab_size=9, text_length=6, text=TOWER, embed_width=6)
SIZES = {"embed_width": 6, "text_width": 8, "text_length": 6, "width": 8, "depth": 1, "heads": 2}
MODELS = {
    "mlp": MlpPriorConfig(embed_width=6, width=16, hidden=8, layers=1),
    "diffusion": DiffusionPriorConfig(**SIZES),
    "one_step": OneStepPriorConfig(**SIZES),
    "autoregressive": AutoregressivePriorConfig(**SIZES, components=3, buckets=8, dot_products=4),
}
ROWS, COUNT = 4, 10


class Noise:
    """Batches of random images; a batch is a pure function of the step."""

    batch_size = ROWS

    def batch(self, step: int, rows: list[int]) -> ExampleBatch:
        rngs = [np.random.default_rng((step, row)) for row in rows]
        return {
            "key": [f"{step} {row}" for row in rows],
            "caption": ["unread"] * len(rows),
            "caption_group": [step * ROWS + row for row in rows],
            "image": [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for rng in rngs],
        }

    def evaluation_batches(self, rows: list[int]) -> list[ExampleBatch]:
        return []

    def fingerprint(self) -> str:
        return "noise"


def task_of(kind: str, **changes) -> EmbeddingPrediction:
    config = PredictEmbeddings(
        model=MODELS[kind], captions=Captions(file="unread"), image_size=16, text_length=6, clip="clip",
        measured_examples=COUNT, **changes,
    )  # fmt: skip
    return EmbeddingPrediction(config, None, Clip(CLIP, rngs=nnx.Rngs(2)))


class WithTexts(EmbeddingPrediction):
    """The task with token ids that are made of the group, in place of a text tokenizer."""

    def prepare(self, examples, seeds):
        group = np.array(examples["caption_group"], np.int32)
        text = 1 + (group[:, None] * 5 + np.arange(6)) % 8
        return {"caption_group": group, "pixels": np.stack(examples["image"]), "text": text.astype(np.int32)}


@pytest.fixture(scope="module")
def clip() -> Clip:
    return Clip(CLIP, rngs=nnx.Rngs(2))


@pytest.fixture(scope="module")
def batch() -> dict:
    task = task_of("mlp")
    prepared = WithTexts(task.config, None, None).prepare(Noise().batch(0, range(ROWS)), None)
    assert {name: (one.shape, one.dtype) for name, one in prepared.items()} == {
        name: (one.shape, one.dtype) for name, one in task.batch_spec(ROWS).items()
    }
    return {name: jnp.asarray(array) for name, array in prepared.items()}


@pytest.fixture(scope="module")
def vectors(clip, batch) -> tuple[jax.Array, TextCondition]:
    return clip.encode_image(batch["pixels"] / 255.0), read_text(clip, batch["text"], unit_vectors=True)


@pytest.mark.parametrize("mesh", [Mesh(1, 1, 1), Mesh(2, 2, 1)], ids=["1x1x1", "2x2x1"])
def test_a_new_prior_has_the_statistics_of_the_first_examples_on_any_mesh(clip, mesh):
    task = task_of("mlp")
    layout = Layout(make_mesh(mesh), Rules())
    found = measured(WithTexts(task.config, None, task.clip), Noise(), layout)
    images = [image for step in range(3) for image in Noise().batch(step, range(ROWS))["image"]][:COUNT]
    wanted = np.asarray(clip.encode_image(jnp.asarray(np.stack(images)) / 255.0))
    module = found.init(nnx.Rngs(0))
    np.testing.assert_allclose(module.mean[...], wanted.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(module.std[...], wanted.std(axis=0), rtol=1e-3)
    assert np.abs(np.asarray(module.text_mean[...])).max() > 1e-2


@pytest.mark.parametrize("kind", MODELS)
def test_the_gradients_of_a_prior_with_measured_statistics_are_finite(kind, batch):
    rng = np.random.default_rng(0)
    task = task_of(kind).with_measurements({name: rng.normal(size=(9, 6)) for name in ("image", "text")})
    graph, params, rest = nnx.split(task.init(nnx.Rngs(0)), nnx.Param, ...)

    def loss(params):
        module = nnx.merge(graph, params, rest)
        return task.loss(module, task.frozen(), batch, jax.random.key(0), jnp.int32(0))[0]

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    leaves = jax.tree.leaves(gradients)
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in leaves)
    assert max(np.abs(leaf).max() for leaf in leaves) > 1e-4


def test_the_loss_of_a_network_that_predicts_zero_is_the_variance_1_of_its_standardised_target(batch, vectors):
    task = replace(task_of("mlp"), sample=VectorSample(*(np.asarray(one) for one in (vectors[0], vectors[1].vector))))
    loss = task.loss(task.init(nnx.Rngs(0)), task.frozen(), batch, jax.random.key(0), jnp.int32(0))[0]
    np.testing.assert_allclose(loss, 1.0, rtol=1e-4)


def test_the_one_step_loss_is_the_squared_error_plus_the_weighted_contrast_with_equal_groups_spread(batch, vectors):
    task = task_of("one_step", contrast=0.5)
    module, (image, text) = task.init(nnx.Rngs(0)), vectors
    batch = batch | {"caption_group": jnp.array([0, 1, 1, 2], jnp.int32)}
    loss, sums = task.loss(module, task.frozen(), batch, jax.random.key(0), jnp.int32(0))
    predicted = module(text)
    same = jnp.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]], bool)
    cosines = np.asarray(module.denormalise(predicted)) @ np.asarray(text.vector).T * float(task.clip.logit_scale)
    picked = jax.nn.log_softmax(cosines, axis=-1)
    contrast = -(picked[0, 0] + picked[1, 1:3].mean() + picked[2, 1:3].mean() + picked[3, 3]) / 4
    np.testing.assert_allclose(sums["contrast"][0], contrast, rtol=1e-4)
    np.testing.assert_allclose(loss, np.square(predicted - image).mean() + 0.5 * contrast, rtol=1e-4)
    np.testing.assert_allclose(
        text_given_image(module.denormalise(predicted), text.vector, task.clip.logit_scale, same), contrast, rtol=1e-4
    )


def test_dropped_texts_are_the_empty_one_and_others_stay(vectors):
    text = vectors[1]
    empty = TextCondition(*(jnp.zeros_like(leaf[:1]) for leaf in text))
    found = drop_text(text, empty, jnp.array([True, False, True, False]))
    for before, blank, after in zip(text, empty, found, strict=True):
        np.testing.assert_array_equal(after[1::2], before[1::2])
        np.testing.assert_array_equal(after[::2], jnp.broadcast_to(blank, after[::2].shape))


def test_the_evaluation_compares_samples_and_texts_with_the_images(batch, vectors):
    task, (image, text) = task_of("mlp"), vectors
    module = task.init(nnx.Rngs(0))
    sums = task.evaluate(module, task.frozen(), batch, jax.random.key(1))
    np.testing.assert_allclose(sums["text_cosine"][0] / ROWS, np.diag(image @ text.vector.T).mean(), rtol=1e-5)
    drawn = module.draw(text, text, jax.random.split(jax.random.key(0), (ROWS, 1)), EVALUATED)[:, 0]
    np.testing.assert_allclose(sums["prior_cosine"][0], np.diag(image @ drawn.T).sum(), rtol=1e-4, atol=1e-5)


def test_a_clip_of_another_size_is_an_error():
    task = task_of("mlp")
    with pytest.raises(UserError, match=r"task.clip: expected .* \(5, 8, 16, 6\), got \(6, 8, 16, 6\) in clip"):
        replace(task, config=replace(task.config, model=replace(MODELS["mlp"], embed_width=5)))


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("mlp", {"blank_captions": 0.1}, "MlpPriorConfig has no guidance, got 0.1"),
        ("diffusion", {"contrast": 0.2}, "DiffusionPriorConfig has another loss, got 0.2"),
        ("diffusion", {"blank_captions": 1.0}, r"share in \[0, 1\), got 1.0"),
        ("one_step", {"text_length": 5}, "expected text_length 5, got 6"),
        ("mlp", {"measured_examples": 1}, "expected at least 2, got 1"),
    ],
)
def test_settings_that_a_prior_does_not_have_are_refused(kind, change, said):
    with pytest.raises(ValueError, match=said):
        replace(task_of(kind).config, **change)
