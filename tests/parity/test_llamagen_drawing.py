"""Imported LlamaGen weights draw by command: by class, and by a file of a caption's features."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import fixture
from flax import nnx
from PIL import Image

from dalle_jax.__main__ import main
from dalle_jax.images.pixels import to_uint8
from dalle_jax.pipelines.load.models import load_generator, load_image_tokenizer
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.safetensors_files import write_safetensors
from dalle_jax.pretrained.signatures import LLAMAGEN_VQ, locate


@pytest.fixture(scope="module", params=["llamagen_gpt_c2i", "llamagen_gpt_t2i"])
def imported(request, tmp_path_factory):
    """Both stages, the image tokenizer's codebook made as large as the transformer's, which is another fixture."""
    folder, io, _ = fixture(request.param)
    tokenizer, out = fixture("llamagen_vq").folder, tmp_path_factory.mktemp(request.param)
    assert main(["import", "llamagen", str(folder / "model.pt"), str(out / "transformer")]) == 0
    size = load_generator(out / "transformer").codebook_size
    tensors = dict(locate(read_tensors(tokenizer / "vq.pt"), LLAMAGEN_VQ))
    codes = tensors["quantize.embedding.weight"]
    more = np.random.default_rng(0).normal(size=(size, codes.shape[1])).astype(codes.dtype)
    tensors["quantize.embedding.weight"] = np.concatenate([codes, more])[:size]
    write_safetensors(out / "vq.safetensors", tensors, {})
    assert main(["import", "llamagen-vq", str(out / "vq.safetensors"), str(out / "tokenizer")]) == 0
    return out, io


def asked(io, out) -> tuple[list[str], list[str]]:
    """The flags that ask for the fixture's prompts, and what they are called."""
    if io["cond"].ndim == 1:
        classes = [str(one) for one in io["cond"]]
        return [word for one in classes for word in ("--class-id", one)], [f"class {one}" for one in classes]
    np.save(out / "features.npy", io["cond"])
    return ["--features", str(out / "features.npy")], ["features"] * len(io["cond"])


def test_greedy_images_are_the_most_likely_codes_of_the_transformer(imported, tmp_path):
    """The first code is the reference's likeliest; each further one is that of teacher forcing on those before it."""
    out, io = imported
    flags, names = asked(io, out)
    command = ["sample", "--model", str(out / "transformer"), "--image-tokenizer", str(out / "tokenizer"), *flags]
    draw = ["--candidates", "1", "--temperature", "0", "--guidance", "1", "--out", str(tmp_path)]
    assert main([*command, *draw]) == 0
    generator, tokenizer = load_generator(out / "transformer"), load_image_tokenizer(out / "tokenizer")
    condition = jnp.asarray(io["cond"])
    codes = np.zeros((len(condition), math.prod(generator.grid)), np.int32)
    forward = nnx.jit(lambda generator, codes: generator(condition, codes).image)
    for position in range(codes.shape[1]):
        codes[:, position] = np.asarray(forward(generator, codes))[:, position].argmax(-1)
    np.testing.assert_array_equal(codes[:, 0], io["out_logits"][:, generator.text_length - 1].argmax(-1))
    decode = nnx.jit(lambda tokenizer, codes: to_uint8(tokenizer.decode(codes)))
    expected = np.asarray(decode(tokenizer, codes.reshape(-1, *generator.grid)))
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == names and all(line["score"] is None for line in lines)
    for line, image in zip(lines, expected, strict=True):
        drawn = np.asarray(Image.open(tmp_path / line["file"])).astype(int)
        assert np.abs(drawn - image).max() <= 1  # another program for each may round the last bit otherwise


def test_an_unsupported_prompt_is_a_one_line_error(imported, tmp_path, capsys):
    out, io = imported
    flags, names = asked(io, out)
    captions = ["--caption", "a cat"] * (len(names) + 1)
    command = ["sample", "--model", str(out / "transformer"), "--out", str(tmp_path / "x")]
    tokenizer = ["--image-tokenizer", str(out / "tokenizer")]
    for more, says in (
        (flags, "its model.gin does not name an image tokenizer; give its folder with --image-tokenizer DIR"),
        (["--prompt", "a cat", *tokenizer], "for which this model was made, got 'a cat'"),
        ([*flags, "--prompt", "a cat", *tokenizer], "not allowed with"),
        (["--class-id", str(2**31 - 1), *tokenizer], str(2**31 - 1)),
        (["--features", str(out / "vq.safetensors"), *tokenizer], "expected numbers in a .npy file"),
        ([*flags, *captions, *tokenizer], "caption: expected one for each --class-id or --features"),
    ):
        assert main([*command, *more]) == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1
    assert not (tmp_path / "x").exists()
