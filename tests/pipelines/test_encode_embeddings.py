"""CLIP embeddings written by ``encode``: they equal the CLIP's own, and a prior trains from them as from images."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.commands.encode import encode_source
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.data.loader import Loader
from dalle_jax.data.precomputed.manifest import read_embedding_manifest
from dalle_jax.data.sources.precomputed import ClipEmbeddings, Codes
from dalle_jax.data.sources.scenes import Scenes
from dalle_jax.models.clip import Clip, ClipConfig, TowerConfig
from dalle_jax.models.dalle import DalleConfig
from dalle_jax.models.priors.mlp_prior import MlpPriorConfig
from dalle_jax.models.priors.one_step_prior import OneStepPriorConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.load.models import ModelFile
from dalle_jax.runs import EncodeRun
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.tasks.predict_embeddings import PredictEmbeddings
from dalle_jax.text.sentencepiece import SentencePiece, train_sentencepiece
from dalle_jax.train.checkpoints.save_weights import save_weights
from tests.small_generators import DALLE

TOWER = TowerConfig(width=8, layers=1, heads=2)
LENGTH, SIDE, COUNT, BATCH = 6, 16, 10, 8
SCENES = Scenes(size=SIDE, levels=(1,), count=COUNT, seed=0, split="train")
LAYOUT = Layout(make_mesh(Mesh(1, 1, 1)), Rules())
ONE_STEP = OneStepPriorConfig(embed_width=6, text_width=8, text_length=LENGTH, width=8, depth=1, heads=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return the folder of a new CLIP with its text tokenizer."""
    out = tmp_path_factory.mktemp("clip")
    words = train_sentencepiece([SCENES.open()[index]["captions"][0] for index in range(COUNT)], 40, "bpe", 0)
    config = ClipConfig(
        image_size=SIDE, patch=8, vision=TOWER, vocab_size=SentencePiece(words, LENGTH).vocab_size,
        text_length=LENGTH, text=TOWER, embed_width=6,
    )  # fmt: skip
    files = {"model.gin": render(ModelFile(model=config)).encode(), "text.model": words}
    save_weights(out, Clip(config, rngs=nnx.Rngs(3)), "", files)
    return out


def run(folder: Path, **changes) -> EncodeRun:
    fields = {"clip": str(folder), "image_size": SIDE, "batch_size": BATCH, "shard_examples": 6, "text_states": True}
    return EncodeRun(source=SCENES, **(fields | changes))


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("embeddings") / "train"
    assert encode_source(run(folder), out).compiles() == 1
    return out


def batches(written: Path) -> tuple[dict, dict]:
    """Return the first batch of the images, and of their embeddings."""
    embeddings, images = ClipEmbeddings(str(written)).open(), SCENES.open()
    return Loader(images, images, BATCH, 5).batch(0), Loader(embeddings, embeddings, BATCH, 5).batch(0)


def opened(folder: Path, written: Path, model=ONE_STEP, **changes):
    config = PredictEmbeddings(
        model=model, captions=Captions(file=str(folder / "text.model")), text_length=LENGTH, **changes
    )
    return config.open(LAYOUT, None if config.image_size else read_embedding_manifest(written))


def test_embeddings_are_the_vectors_of_the_image_and_of_the_chosen_caption_in_float16(folder, written):
    images, embeddings = batches(written)
    assert [embeddings[name] for name in ("key", "caption", "caption_group")] == [
        images[name] for name in ("key", "caption", "caption_group")
    ]
    task = opened(folder, written, image_size=SIDE, clip=str(folder))
    pairs = task._pairs(task.frozen(), {name: jnp.asarray(one) for name, one in task.prepare(images, None).items()})
    np.testing.assert_allclose(np.stack(embeddings["image_vector"]), pairs.image, atol=1e-3)
    np.testing.assert_allclose(np.stack(embeddings["text_vector"]), pairs.text.vector, atol=1e-3)
    assert embeddings["image_vector"][0].dtype == np.float16
    for row, states in enumerate(embeddings["text_states"]):
        np.testing.assert_allclose(states, pairs.text.states[row, : len(states)], atol=4e-3)
        assert len(states) == pairs.text.mask[row].sum()


def test_a_prior_has_the_same_loss_from_images_and_from_their_embeddings(folder, written):
    from_images, from_embeddings = opened(folder, written, image_size=SIDE, clip=str(folder)), opened(folder, written)
    assert from_embeddings.frozen() == {} and from_embeddings.config.clip == str(folder)
    losses = []
    for task, examples in zip((from_images, from_embeddings), batches(written), strict=True):
        rows = task.prepare(examples, None)
        assert {name: (one.shape, one.dtype) for name, one in rows.items()} == {
            name: (one.shape, one.dtype) for name, one in task.batch_spec(BATCH).items()
        }
        batch = {name: jnp.asarray(one) for name, one in rows.items()}
        losses.append(task.loss(task.init(nnx.Rngs(0)), task.frozen(), batch, jax.random.key(0), jnp.int32(0))[0])
    np.testing.assert_allclose(*losses, rtol=2e-3)
    np.testing.assert_allclose(
        from_embeddings.empty.states, from_images._pairs(from_images.frozen(), batch_of(from_images, written)).empty[0]
    )


def batch_of(task, written: Path) -> dict:
    return {name: jnp.asarray(one) for name, one in task.prepare(batches(written)[0], None).items()}


def test_a_shard_that_is_missing_is_written_again_and_a_finished_folder_stays(folder, written, tmp_path):
    before = read_embedding_manifest(written)
    assert encode_source(run(folder), written) is None
    assert [shard.file for shard in before.shards] == [f"embeddings-0000{n}-of-00002.array_record" for n in range(2)]
    (written / before.shards[1].file).unlink()
    assert encode_source(run(folder), written) is not None
    assert read_embedding_manifest(written) == before


def test_vectors_alone_train_an_mlp_prior_and_are_refused_by_a_transformer(folder, tmp_path):
    encode_source(run(folder, text_states=False), tmp_path / "vectors")
    task = opened(folder, tmp_path / "vectors", MlpPriorConfig(embed_width=6, width=8, hidden=8, layers=1))
    batch = {name: jnp.asarray(one) for name, one in task.prepare(batches(tmp_path / "vectors")[1], None).items()}
    assert np.isfinite(task.loss(task.init(nnx.Rngs(0)), {}, batch, jax.random.key(0), jnp.int32(0))[0])
    with pytest.raises(UserError, match=r"expected embeddings with text states, which task.model reads"):
        opened(folder, tmp_path / "vectors")


def test_data_of_another_kind_or_another_clip_is_refused(folder, written, tmp_path):
    with pytest.raises(UserError, match=r"expected embeddings, since task.image_size is None, got images"):
        PredictEmbeddings(ONE_STEP, Captions(file=str(folder / "text.model")), LENGTH).open(LAYOUT, None)
    manifest = read_embedding_manifest(written)
    other = replace(manifest, encoding=replace(manifest.encoding, clip="clip-0"))
    with pytest.raises(UserError, match=r"task\.clip: expected clip-0, which computed the embeddings, got clip-"):
        PredictEmbeddings(ONE_STEP, Captions(file=str(folder / "text.model")), LENGTH).open(LAYOUT, other)
    with pytest.raises(UserError, match=r"expected a manifest of dalle_jax codes 1, got other content"):
        Codes(str(written)).open()
    with pytest.raises(ValueError, match="expected one of the two, got None and None"):
        run(folder, clip=None, text_states=False)
    with pytest.raises(UserError, match="image_size: expected 16, the CLIP's, got 8"):
        encode_source(run(folder, image_size=8), tmp_path / "other")
    with pytest.raises(UserError, match="expected data of images for GenerateCodes, got precomputed embeddings"):
        GenerateCodes(DalleConfig(**DALLE), Captions(file=str(folder / "text.model")), "tokenizer", SIDE).open(
            LAYOUT, manifest
        )
