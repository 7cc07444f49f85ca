"""An imported CLIP ranks images with its own text tokenizer and preprocessing, as its reference would."""

import json

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

VQVAE = VqvaeConfig(downsample=4, width=8, blocks=1, codebook_size=16, code_width=4, stem="patch")
TRANSFORMER = {"text_length": 8, "codebook_size": 16, "grid": (10, 10), "width": 16, "depth": 1, "heads": 2}


def save(folder, network, config, files):
    text = render(ModelFile(model=config))
    save_weights(folder, network(config, rngs=nnx.Rngs(3)), text, {"model.gin": text.encode(), **files})


@pytest.fixture(scope="module")
def drawing(tmp_path_factory):
    """Return a pipeline without a CLIP that samples images of 40 px, a size that no fixture has."""
    folder = tmp_path_factory.mktemp("drawing")
    model = train_sentencepiece(["a red circle", "a blue square", "a green ring"] * 5, 40, "bpe", 0)
    save(folder / "tokenizer", Vqvae, VQVAE, {})
    save(folder / "transformer", Dalle, DalleConfig(text_vocab=40, head_size=8, **TRANSFORMER), {"text.model": model})
    file = PipelineFile({"image_tokenizer": "tokenizer", "transformer": "transformer"})
    (folder / "pipeline.gin").write_text(render(file))
    return folder


def write_vocabulary(folder, begin: int, end: int):
    """The letters that fit in front of begin and end, as whole words' ends and within words."""
    letters = [letter + word for letter in "abcdefghijklmnopqrstuvwxyz" for word in ("", "</w>")]
    ids = {piece: 5 + number for number, piece in enumerate(letters)} | {"<|startoftext|>": begin, "<|endoftext|>": end}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\nzz zz\n")
    return ids


@pytest.mark.parametrize(
    ("kind", "name", "file", "convention"),
    [
        ("hf-clip", "clip_hf", "", "hugging_face"),
        ("openai-clip", "clip_openai_vit", "model.pt", "openai"),
        ("open-clip", "open_clip", "", "openai"),
    ],
)
def test_candidates_are_ranked_by_an_imported_clip(drawing, tmp_path, capsys, kind, name, file, convention):
    folder, io, tolerance = fixture(name)
    begin, end = int(io["input_ids"][0, 0]), int(io["input_ids"].max())
    ids = write_vocabulary(tmp_path, begin, end)
    clip = tmp_path / "clip"
    command = ["import", kind, str(folder / file), str(clip), "--vocabulary", str(tmp_path / "vocab.json")]
    assert main(command) == 0
    flags = [
        "--prompt",
        "A red dot",
        "--candidates",
        "4",
        "--keep",
        "4",
        "--guidance",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["sample", "--model", str(drawing), "--clip", str(clip), *flags]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    images = [Image.open(tmp_path / "out" / line["file"]) for line in lines]

    network = load_clip(clip)
    letters = [ids["a</w>"], ids["r"], ids["e"], ids["d</w>"], ids["d"], ids["o"], ids["t</w>"]]
    text = np.zeros((1, network.config.text_length), np.int32)
    text[0, :9] = [begin, *letters, end]
    size, mean, std = network.config.image_size, network.config.pixel_mean, network.config.pixel_std
    assert images[0].size == (40, 40) and size == 32
    shown = np.stack([normalise(clip_pixels(image, size, convention), mean, std) for image in images])
    towers = nnx.jit(lambda network, pixels, text: (network.vision(pixels), network.text(text)))
    images, words = (np.asarray(x, np.float64) for x in towers(network, shown, text))
    cosines = images @ words[0] / (np.linalg.norm(images, axis=1) * np.linalg.norm(words))
    assert_close([line["score"] for line in lines], cosines, tolerance)
    assert (np.diff(cosines) <= tolerance).all()


def test_images_of_odd_sizes_are_cut_as_each_publisher_does(drawing, tmp_path):
    """Preprocessed by the pipeline, an image gives the features that the reference's own pixels give."""
    pixels, io, _ = fixture("clip_preprocess")
    for kind, name, file, prefix in (
        ("hf-clip", "clip_hf", "", "hf_out_"),
        ("openai-clip", "clip_openai_vit", "model.pt", "out_"),
    ):
        folder, ids, tolerance = fixture(name)
        write_vocabulary(tmp_path, int(ids["input_ids"][0, 0]), int(ids["input_ids"].max()))
        clip = tmp_path / kind
        vocabulary = ["--vocabulary", str(tmp_path / "vocab.json")]
        assert main(["import", kind, str(folder / file), str(clip), *vocabulary]) == 0
        pipeline, network = dalle_jax.load(drawing, clip=clip), load_clip(clip)
        tower = nnx.jit(lambda network, pixels: network.vision(pixels))
        for number in range(5):
            image = np.asarray(Image.open(pixels / f"image_{number}.png").convert("RGB"))
            vector = pipeline.ranker.image_vectors([image])[0]
            features = np.asarray(tower(network, io[f"{prefix}{number}"].transpose(1, 2, 0)[None]))[0]
            assert_close(vector, features / np.linalg.norm(features), tolerance)
