"""``--consistency-decoder``: codes of a pipeline are decoded by another network."""

import numpy as np
import pytest
from flax import nnx
from PIL import Image
from small_karlo import random_parameters
from small_unclip import CLIP, TOKENIZER, small_words, write_unclip

import dalle_jax
from dalle_jax.__main__ import main
from dalle_jax.config.render import render
from dalle_jax.models.clip import Clip
from dalle_jax.models.decoders.consistency_decoded import ConsistencyDecoded
from dalle_jax.models.decoders.consistency_decoder import ConsistencyDecoderConfig
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.unet import UNetConfig
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.load.models import ModelFile, PipelineFile, absolute_needs, load_image_tokenizer
from dalle_jax.train.checkpoints.save_weights import save_weights
from tests.small_denoisers import decoder_config, random_module


def decoder_of(width: int, factor: int) -> ConsistencyDecoderConfig:
    unet = UNetConfig(32, (1,), 1, extra_channels=width, learned_times=1024)
    return ConsistencyDecoderConfig(unet, factor, 0.5, mean=(0.1,) * width, std=(2.0,) * width)


CONFIG = decoder_of(TOKENIZER.code_width, TOKENIZER.downsample)


def save(folder, network, file: ModelFile, files=None) -> None:
    save_weights(folder, network, render(file), {"model.gin": render(file).encode(), **(files or {})})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("unclip")
    write_unclip(made)
    for name, config in {"consistency": CONFIG, "wider": decoder_of(6, 4)}.items():
        save(made / name, random_parameters(config, 0), ModelFile(config))
    return made


def test_an_image_tokenizer_with_a_consistency_decoder_is_an_image_tokenizer(folder):
    tokenizer, decoder = load_image_tokenizer(folder / "tokenizer"), random_parameters(CONFIG, 0)
    both = ConsistencyDecoded(tokenizer, decoder)
    assert isinstance(both, ImageTokenizer)
    own, codec = ImageCodec(tokenizer), ImageCodec(both)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    codes = codec.encode(pixels)
    np.testing.assert_array_equal(codes, own.encode(pixels))
    images = codec.decode(codes)
    assert images.shape == (2, 16, 16, 3) and not np.array_equal(images, own.decode(codes))
    np.testing.assert_allclose(codec.decode(codes[1:]).astype(int), images[1:], atol=1)  # the same noise in any batch
    with pytest.raises(ValueError, match="expected one of latents of width 4 that cover 4 px"):
        ConsistencyDecoded(tokenizer, nnx.eval_shape(lambda: decoder_of(4, 8).build(nnx.Rngs(0))))


def test_images_by_command_are_decoded_by_it(folder, tmp_path):
    flags = ["--prompt", "a red circle", "--candidates", "1", "--seed", "3", "--out", str(tmp_path)]
    given = ["--consistency-decoder", str(folder / "consistency")]
    assert main(["sample", "--model", str(folder), *given, *flags]) == 0
    drawn = np.asarray(Image.open(tmp_path / "0000_00.png"))
    options = {"candidates": 1, "seed": 3}
    pipeline = dalle_jax.load(folder, consistency_decoder=folder / "consistency")
    np.testing.assert_array_equal(drawn, pipeline("a red circle", **options).pixels[0])
    plain = dalle_jax.load(folder)("a red circle", **options).pixels
    codes = pipeline.codec.encode(plain)
    assert not np.array_equal(drawn, plain[0]) and codes.shape == (1, 4, 4)


def test_a_decoder_that_does_not_fit_is_one_line(folder, tmp_path):
    with pytest.raises(dalle_jax.UserError, match="wider: consistency_decoder: expected one of latents of width 4"):
        dalle_jax.load(folder, consistency_decoder=folder / "wider")
    with pytest.raises(dalle_jax.UserError, match="tokenizer: expected a ConsistencyDecoder, got a Vqvae"):
        dalle_jax.load(folder, consistency_decoder=folder / "tokenizer")
    needs, words = absolute_needs(clip=str(tmp_path / "clip")), {"text.model": small_words()}
    decoder = decoder_config(30)
    save(tmp_path / "clip", Clip(CLIP, rngs=nnx.Rngs(2)), ModelFile(CLIP), words)
    save(tmp_path / "decoder", random_module(lambda: decoder.build(nnx.Rngs(0))), ModelFile(decoder, needs), words)
    (tmp_path / "pipeline.gin").write_text(render(PipelineFile({name: name for name in ("clip", "decoder")})))
    with pytest.raises(dalle_jax.UserError, match="consistency_decoder: expected none for a pixel decoder, got"):
        dalle_jax.load(tmp_path, consistency_decoder=folder / "consistency")
