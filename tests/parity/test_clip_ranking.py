"""An imported CLIP ranks images with its own text tokenizer and preprocessing, as its reference would."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures import assert_close, fixture, normalise
from flax import nnx
from PIL import Image

import dalle_jax
from dalle_jax.__main__ import main
from dalle_jax.config.render import render
from dalle_jax.images.clip_pixels import clip_pixels
from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.pipelines.load.models import ModelFile, PipelineFile, load_clip
from dalle_jax.text.sentencepiece import train_sentencepiece
from dalle_jax.train.checkpoints.save_weights import save_weights

PROMPT, PIECES = "A red dot", ["a</w>", "r", "e", "d</w>", "d", "o", "t</w>"]
VQVAE = VqvaeConfig(downsample=4, width=8, blocks=1, codebook_size=16, code_width=4, stem="patch")
TRANSFORMER = DalleConfig(
    text_vocab=40, head_size=8, text_length=8, codebook_size=16, grid=(1, 1), width=16, depth=1, heads=2
)


def save(folder, network, config, files):
    text = render(ModelFile(model=config))
    save_weights(folder, network(config, rngs=nnx.Rngs(3)), text, {"model.gin": text.encode(), **files})


@pytest.fixture(scope="module")
def drawing(tmp_path_factory):
    """Return a function that makes a pipeline without a CLIP, whose images are 8 px larger than a CLIP's."""

    @functools.cache
    def larger_than(size: int) -> tuple[Path, int]:
        folder, side = tmp_path_factory.mktemp("drawing"), size // VQVAE.downsample + 2
        model = train_sentencepiece(["a red circle", "a blue square", "a green ring"] * 5, 40, "bpe", 0)
        save(folder / "tokenizer", Vqvae, VQVAE, {})
        save(folder / "transformer", Dalle, replace(TRANSFORMER, grid=(side, side)), {"text.model": model})
        file = PipelineFile({"image_tokenizer": "tokenizer", "transformer": "transformer"})
        (folder / "pipeline.gin").write_text(render(file))
        return folder, side * VQVAE.downsample

    return larger_than


def write_vocabulary(folder, io) -> list[int]:
    """Write a vocabulary of the pieces of PROMPT with the fixture's begin and end; return the prompt's ids with them.

    The end is the last id of a text, or the largest id where there is no mask of the padding.
    """
    row = io["input_ids"][0]
    begin, end = int(row[0]), int(row[io["attention_mask"][0].sum() - 1] if "attention_mask" in io else row.max())
    free = (number for number in range(1, end) if number != begin)
    ids = dict(zip(dict.fromkeys(PIECES), free, strict=False))
    special = {"<|startoftext|>": begin, "<|endoftext|>": end}
    (folder / "vocab.json").write_text(json.dumps(ids | special))
    (folder / "merges.txt").write_text("#version: 0.2\nzz zz\n")
    return [begin, *(ids[piece] for piece in PIECES), end]


@pytest.mark.parametrize(
    ("kind", "name", "file", "convention"),
    [
        ("hf-clip", "clip_hf", "", "hugging_face"),
        pytest.param("openai-clip", "clip_openai_vit", "model.pt", "openai", marks=pytest.mark.slow),
        pytest.param("open-clip", "open_clip", "", "openai", marks=pytest.mark.slow),
    ],
)
def test_candidates_are_ranked_by_an_imported_clip(drawing, tmp_path, capsys, kind, name, file, convention):
    folder, io, tolerance = fixture(name)
    ids = write_vocabulary(tmp_path, io)
    clip = tmp_path / "clip"
    command = ["import", kind, str(folder / file), str(clip), "--vocabulary", str(tmp_path / "vocab.json")]
    assert main(command) == 0
    network = load_clip(clip)
    size, mean, std = network.config.image_size, network.config.pixel_mean, network.config.pixel_std
    model, side = drawing(size)
    flags = ["--prompt", PROMPT, "--candidates", "4", "--keep", "4", "--guidance", "1", "--out", str(tmp_path / "out")]
    assert main(["sample", "--model", str(model), "--clip", str(clip), *flags]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    images = [Image.open(tmp_path / "out" / line["file"]) for line in lines]

    length = network.config.text_length
    text = np.zeros((1, length), np.int32)
    kept = ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]  # a long text keeps its end
    text[0, : len(kept)] = kept
    assert images[0].size == (side, side) != (size, size)
    shown = np.stack([normalise(clip_pixels(image, size, convention), mean, std) for image in images])
    towers = nnx.jit(lambda network, pixels, text: (network.vision(pixels), network.text(text)))
    images, words = (np.asarray(x, np.float64) for x in towers(network, shown, text))
    cosines = images @ words[0] / (np.linalg.norm(images, axis=1) * np.linalg.norm(words))
    assert_close([line["score"] for line in lines], cosines, tolerance)
    assert (np.diff(cosines) <= tolerance).all()


def test_images_of_odd_sizes_are_cut_as_each_publisher_does(drawing, tmp_path):
    """The pipeline gives an image the features of the reference's own pixels.

    For a CLIP of a size without recorded pixels, they are computed by the function that test_clip_preprocess.py checks.
    """
    pixels, recorded, _ = fixture("clip_preprocess")
    for kind, name, file, prefix, convention in (
        ("hf-clip", "clip_hf", "", "hf_out_", "hugging_face"),
        ("openai-clip", "clip_openai_vit", "model.pt", "out_", "openai"),
    ):
        folder, io, tolerance = fixture(name)
        write_vocabulary(tmp_path, io)
        clip = tmp_path / kind
        vocabulary = ["--vocabulary", str(tmp_path / "vocab.json")]
        assert main(["import", kind, str(folder / file), str(clip), *vocabulary]) == 0
        network = load_clip(clip)
        size, mean, std = network.config.image_size, network.config.pixel_mean, network.config.pixel_std
        pipeline = dalle_jax.load(drawing(size)[0], clip=clip)
        numbers = [key.removeprefix(prefix) for key in recorded if key.startswith(prefix)]
        tower = nnx.jit(lambda network, pixels: network.vision(pixels))
        plain = [number for number in numbers if number.isdecimal()]  # the others have no three channels
        assert plain
        for number in plain:
            image = np.asarray(Image.open(pixels / f"image_{number}.png").convert("RGB"))
            vector = pipeline.ranker.image_vectors([image])[0]
            shown = recorded[prefix + number].transpose(1, 2, 0)
            if shown.shape[0] != size:
                shown = normalise(clip_pixels(Image.fromarray(image), size, convention), mean, std)
            features = np.asarray(tower(network, shown[None]))[0]
            assert_close(vector, features / np.linalg.norm(features), tolerance)
