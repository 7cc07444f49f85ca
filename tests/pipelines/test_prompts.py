import dataclasses

import numpy as np
import pytest
from flax import nnx

from dalle_jax.commands.sample import read_features, truncation_warnings
from dalle_jax.config.errors import UserError
from dalle_jax.models.clip import Clip, ClipConfig, TowerConfig
from dalle_jax.models.llamagen import LlamaGen, LlamaGenConfig
from dalle_jax.models.prompt_kinds import ByCaption, ByClass
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.prompts import ClassPrompts, FeaturePrompts, TextPrompts, feature_rows
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.text.clip_bpe import FILE, ClipBpe

TEXT = ClipBpe().tokenizer({FILE: b"#version: 0.2\nr e\n"}, 6)
CLASSES, FEATURES = ByClass(5), ByCaption(length=4, width=6)
CONFIG = LlamaGenConfig(
    condition=CLASSES, codebook_size=16, grid=(4, 4), width=16, depth=1, heads=2, multiple_of=8, init_std=0.4
)


def drawing(prompts) -> TextToImage:
    """Return a pipeline with random weights in the head of its transformer, and with a CLIP."""
    generator = LlamaGen(dataclasses.replace(CONFIG, condition=prompts.condition), rngs=nnx.Rngs(0))
    kernel = generator.codes.head.kernel
    kernel[...] = np.random.default_rng(0).normal(size=kernel.shape).astype(np.float32)
    vqvae = VqvaeConfig(downsample=4, width=8, blocks=1, codebook_size=16, code_width=4, stem="patch")
    tower = TowerConfig(width=16, layers=1, heads=2)
    clip = ClipConfig(
        image_size=16, patch=8, vision=tower, vocab_size=515, text_length=6, text=tower, embed_width=8
    )  # fmt: skip
    tokenizer, ranker = Vqvae(vqvae, rngs=nnx.Rngs(1)), Clip(clip, rngs=nnx.Rngs(2))
    return TextToImage(generator, ImageCodec(tokenizer, 8), prompts, ClipRanker(ranker, TEXT, 8), 8)


@pytest.fixture(scope="module")
def by_class() -> TextToImage:
    return drawing(ClassPrompts(CLASSES))


@pytest.fixture(scope="module")
def by_features() -> TextToImage:
    return drawing(FeaturePrompts(FEATURES))


def test_features_are_padded_in_front_and_their_own_padding_is_removed():
    words = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    padded = np.concatenate([np.zeros((2, 6)), words])
    for given in (words, padded, np.concatenate([words, np.zeros((3, 6))]), words.astype(np.float64)):
        np.testing.assert_array_equal(feature_rows([given], FEATURES, "here")[0], padded)
    long = np.random.default_rng(1).normal(size=(9, 6)).astype(np.float32)
    np.testing.assert_array_equal(feature_rows([long], FEATURES, "here")[0], long[:4])


@pytest.mark.parametrize(
    ("reader", "prompt", "says"),
    [
        (ClassPrompts(CLASSES), 5, "prompt: expected a class from 0 to 4 for each image, got int64[1] from 5 to 5"),
        (ClassPrompts(CLASSES), -1, "from -1 to -1"),
        (ClassPrompts(CLASSES), True, "expected the number of a class, for which this model was made, got True"),
        (ClassPrompts(CLASSES), "a cat", "expected the number of a class, for which this model was made, got 'a cat'"),
        (FeaturePrompts(FEATURES), 3, "expected the features [t c] of a caption, for which this model was made"),
        (FeaturePrompts(FEATURES), np.ones((2, 5), np.float32), "expected features of 6 numbers for each token"),
        (FeaturePrompts(FEATURES), np.zeros((2, 6), np.float32), "got only zeros in float32[2, 6]"),
        (FeaturePrompts(FEATURES), np.ones((2, 6), np.int32), "got int32[2, 6]"),
        (TextPrompts(TEXT), 3, "expected a text, for which this model was made, got 3"),
    ],
)  # fmt: skip
def test_a_prompt_of_a_different_kind_is_refused(reader, prompt, says):
    with pytest.raises(UserError) as error:
        reader.read([prompt])
    assert says in str(error.value)


def test_images_depend_on_the_class_and_on_guidance(by_class):
    both = by_class([1, 2], candidates=4, keep=4, temperature=0.0, guidance=1.0)
    assert [one.prompt for one in both] == ["class 1", "class 2"]
    assert not np.array_equal(both[0].pixels, both[1].pixels)
    np.testing.assert_array_equal(by_class(2, candidates=4, temperature=0.0, guidance=1.0).pixels, both[1].pixels)
    assert not np.array_equal(by_class(2, candidates=4, temperature=0.0, guidance=9.0).pixels, both[1].pixels)


def test_a_caption_ranks_and_names_the_images_of_a_class_or_of_features(by_class, by_features):
    features = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    for pipeline, prompt, said in ((by_class, 3, "class 3"), (by_features, features, "features")):
        bare = pipeline(prompt, candidates=4, keep=2, seed=1)
        assert bare.prompt == said and bare.scores is None
        ranked = pipeline(prompt, candidates=4, keep=2, seed=1, caption="a dog")
        assert ranked.prompt == "a dog"
        np.testing.assert_array_equal(ranked.candidates, bare.candidates)
        scores = pipeline.rank(bare.candidates, "a dog")
        np.testing.assert_allclose(ranked.candidate_scores, scores, atol=1e-6)
        np.testing.assert_array_equal(ranked.chosen, np.argsort(-scores, kind="stable")[:2])
    with pytest.raises(UserError, match=r"caption: expected one for each prompt that is not a text \(2\), got 'a dog'"):
        by_class([1, 2], caption="a dog")


def test_nats_depend_on_the_class(by_class):
    images = np.random.default_rng(3).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    nats = by_class.likelihood.nats(images, [1, 2])
    np.testing.assert_allclose(by_class.likelihood.nats(images[1:], [2]), nats[1:], rtol=1e-5)
    assert abs(by_class.likelihood.nats(images[1:], [1])[0] - nats[1]) > 1e-3


def test_a_file_of_features_holds_one_caption_or_several(tmp_path):
    several = np.random.default_rng(0).normal(size=(3, 2, 6)).astype(np.float16)
    np.save(tmp_path / "several.npy", several)
    np.save(tmp_path / "one.npy", several[0])
    np.testing.assert_array_equal(np.stack(read_features(tmp_path / "several.npy")), several)
    np.testing.assert_array_equal(np.stack(read_features(tmp_path / "one.npy")), several[:1])
    np.save(tmp_path / "flat.npy", several[0, 0])
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    (tmp_path / "text.npy").write_text("no")
    for name, says in (
        ("flat", r"got float16\[6\]"),
        ("objects", "expected plain numbers, got the dtype"),
        ("text", "expected numbers"),
    ):
        with pytest.raises(UserError, match=says):
            read_features(tmp_path / f"{name}.npy")


def test_prompts_and_captions_longer_than_a_model_reads_are_each_a_warning(by_class, by_features):
    long, short = (np.ones((rows, 6), np.float32) for rows in (5, 4))
    cut = "WARNING: 1 of 2 prompts were truncated to the {} tokens of {} (number 1 has {})"
    assert list(truncation_warnings(by_features, [long, short], None)) == [cut.format(4, "the transformer", 5)]
    captions = ["red red red red red", "red"]
    assert list(truncation_warnings(by_class, [1, 2], captions)) == [cut.format(6, "CLIP", 12)]
    assert list(truncation_warnings(by_class, [1, 2], None)) == []
