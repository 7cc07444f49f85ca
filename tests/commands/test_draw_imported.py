"""DALL·E mini, imported from its published layout, samples with its own text tokenizer and empty caption."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import dalle_jax
from dalle_jax.__main__ import main
from dalle_jax.config.render import render
from dalle_jax.images.pixels import to_uint8
from dalle_jax.models.dalle_bart import DalleBart, DalleBartConfig
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.pipelines.load.models import ModelFile, load_generator, load_image_tokenizer
from dalle_jax.pipelines.load.pipeline import recommended_sampling
from dalle_jax.pretrained.publishers import dalle_mini
from dalle_jax.train.checkpoints.save_weights import save_weights

MINI = DalleBartConfig(
    text_vocab=11, text_length=5, codebook_size=7, grid=(3, 3), width=32, encoder_layers=1, encoder_heads=2,
    encoder_hidden=10, decoder_layers=2, decoder_heads=2, decoder_hidden=14, init_std=0.5, scan=True, pad_id=1,
    empty_caption=(0, 2), extra_codes=1, start_code=7,
)  # fmt: skip
VQVAE = VqvaeConfig(downsample=4, width=8, blocks=1, codebook_size=7, code_width=4, stem="patch")
PIECES = ("<s>", "<pad>", "</s>", "<unk>", "a", "b", "ab", "c", "d", "Ġ", "<mask>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Create a folder of imported weights: "mini", "tokenizer" with 7 codes and "other" with 9."""
    out = tmp_path_factory.mktemp("mini")
    dalle_mini.export(DalleBart(MINI, rngs=nnx.Rngs(0)), out / "theirs")
    config = json.loads((out / "theirs" / "config.json").read_text())
    config["image_vocab_size"] = MINI.codebook_size
    (out / "theirs" / "config.json").write_text(json.dumps(config))
    (out / "theirs" / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(PIECES)}))
    (out / "theirs" / "merges.txt").write_text("#version: 0.2\na b\n")
    assert main(["import", "dalle-mini", str(out / "theirs"), str(out / "mini")]) == 0
    for name, size in (("tokenizer", 7), ("other", 9)):
        sized = VqvaeConfig(**(vars(VQVAE) | {"codebook_size": size}))
        text = render(ModelFile(model=sized))
        save_weights(out / name, Vqvae(sized, rngs=nnx.Rngs(1)), text, {"model.gin": text.encode()})
    return out


def test_a_greedy_guided_sample_equals_guidance_by_its_formula(folder, tmp_path):
    command = ["sample", "--model", str(folder / "mini"), "--image-tokenizer", str(folder / "tokenizer")]
    flags = ["--prompt", "ab c", "--candidates", "1", "--temperature", "0", "--guidance", "4", "--out", str(tmp_path)]
    assert main([*command, *flags]) == 0
    generator, tokenizer = load_generator(folder / "mini"), load_image_tokenizer(folder / "tokenizer")
    text = jnp.asarray([[0, 6, 9, 7, 2], [0, 2, 1, 1, 1]], jnp.int32)  # <s> ab Ġ c </s>, and <s> </s>
    codes = np.zeros((2, 9), np.int32)
    forward = nnx.jit(lambda generator, codes: generator(text, codes).image)
    for position in range(9):
        said, blank = np.asarray(forward(generator, codes))[:, position, : MINI.codebook_size]
        codes[:, position] = np.argmax(blank + 4.0 * (said - blank))
    decode = nnx.jit(lambda tokenizer, codes: to_uint8(tokenizer.decode(codes)))
    expected = np.asarray(decode(tokenizer, codes[:1].reshape(1, 3, 3)))[0]
    drawn = np.asarray(Image.open(tmp_path / "0000_00.png")).astype(int)
    assert np.abs(drawn - expected).max() <= 1


def test_an_image_tokenizer_with_a_different_codebook_size_is_refused(folder):
    with pytest.raises(dalle_jax.UserError, match=r"of 7 codes, which the transformer in .* generates, got one of 9"):
        dalle_jax.load(folder / "mini", image_tokenizer=folder / "other")


def test_the_publishers_guidance_is_used_where_none_is_given(folder):
    pipeline = dalle_jax.load(folder / "mini", image_tokenizer=folder / "tokenizer")
    assert pipeline.options(candidates=2).guidance == 10.0  # as in the authors' notebook
    assert pipeline.options(guidance=1.5).guidance == 1.5
    assert recommended_sampling(folder / "mini") == pipeline.recommended
    greedy = {"candidates": 1, "temperature": 0.0}
    drawn = pipeline("ab c", **greedy).pixels
    np.testing.assert_array_equal(drawn, pipeline("ab c", **greedy, guidance=10.0).pixels)
