"""Karlo as a whole against diffusers' UnCLIPPipeline, with its recorded noise, and by command."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import dalle_jax
from dalle_jax.__main__ import main
from dalle_jax.diffusion.samplers.sampler import RecordedNoise
from dalle_jax.models.priors.prior import read_text
from dalle_jax.pipelines.imported.karlo_stages import KarloNetworks, StageNoise, decode, upsample
from tests.parity.fixtures import assert_close, fixture, imported
from tests.parity.scheduler_rounding import RoundedDdpm

PARTS = {
    "text_encoder": "unclip_pipeline/text_encoder", "prior": "unclip_prior", "text_proj": "unclip_text_proj",
    "decoder": "unclip_decoder", "super_res_first": "unclip_super_res/super_res_first",
    "super_res_last": "unclip_super_res/super_res_last",
}  # fmt: skip
"""Folders of the published layout, and the fixtures that hold them."""


def recorded(io, first: int, steps: int) -> StageNoise:
    """The noise of a stage: its start, then one draw for each step but the last."""
    draws = [io[f"noise_{first + number:02d}"] for number in range(steps)]
    rows = [np.moveaxis(one, 1, -1) for one in [*draws, np.zeros_like(draws[0])]]
    return StageNoise(jnp.asarray(rows[0]), RecordedNoise(jnp.asarray(np.stack(rows[1:]))))


def test_images_from_token_ids_are_the_references():
    folder, io, tolerance = fixture("unclip_pipeline")
    root = folder.parent
    text, prior, projection = (
        imported(f"karlo-{kind}", root / PARTS[part])
        for kind, part in (("text-encoder", "text_encoder"), ("prior", "prior"), ("text-proj", "text_proj"))
    )
    unets = [
        imported("diffusers-unet", root / PARTS[part]) for part in ("decoder", "super_res_first", "super_res_last")
    ]
    networks = KarloNetworks(text, prior, projection, *unets)
    ids, empty_ids = jnp.asarray(io["input_ids"], jnp.int32), jnp.asarray(io["uncond_input_ids"][:1], jnp.int32)
    steps = [int(one) for one in io["steps"]]
    assert sum(steps) == sum(name.startswith("noise_") for name in io)
    noises = [recorded(io, sum(steps[:stage]), count) for stage, count in enumerate(steps)]
    scales = jnp.full(len(ids), io["guidance"][1], jnp.float32)
    with jax.default_matmul_precision("float32"):
        condition, empty = read_text(text, ids, False), read_text(text, empty_ids, False)
        vectors = prior.sample(
            condition, empty, *noises[0], float(io["guidance"][0]), steps[0], RoundedDdpm("fixed_small")
        )
        image = decode(
            networks, condition, empty, vectors, noises[1], steps[1], scales, RoundedDdpm("learned_range")
        )  # fmt: skip
        images = upsample(networks, image, noises[2], steps[2], RoundedDdpm("fixed_small"))
    assert_close(vectors, io["out_image_embeds"], tolerance)
    assert_close(images, io["out_images"], tolerance)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Karlo's folder in the published layout, from the fixtures of its parts, with a small vocabulary."""
    root = fixture("unclip_pipeline").folder.parent
    folder = tmp_path_factory.mktemp("karlo")
    for part, name in PARTS.items():
        shutil.copytree(root / name, folder / part)
    for stage in ("prior", "decoder", "super_res"):
        (folder / f"{stage}_scheduler").mkdir()
        source = root / "unclip_scheduler" / f"{stage}_scheduler_config.json"
        shutil.copy(source, folder / f"{stage}_scheduler" / "scheduler_config.json")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "UnCLIPPipeline"}))
    text = json.loads((folder / "text_encoder" / "config.json").read_text())
    pieces = {piece: number for number, piece in enumerate(("r", "e", "d</w>", "a</w>"), 1)}
    special = {"<|startoftext|>": text["bos_token_id"], "<|endoftext|>": text["eos_token_id"]}
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(pieces | special))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\nzz zz\n")
    return folder


def test_an_imported_karlo_samples_by_command(published, tmp_path):
    """Images by command are those of the pipeline in Python, of the published size and by the published guidance."""
    assert main(["import", "karlo", str(published), str(tmp_path / "karlo")]) == 0
    pipeline = dalle_jax.load(tmp_path / "karlo", steps=2)
    side = json.loads((published / "super_res_first" / "config.json").read_text())["sample_size"]
    options = ["--prompt", "red", "--candidates", "2", "--steps", "2", "--seed", "5"]
    assert main(["sample", "--model", str(tmp_path / "karlo"), *options, "--out", str(tmp_path / "out")]) == 0
    drawn = [np.asarray(Image.open(one)) for one in sorted((tmp_path / "out").glob("0000_*.png"))]
    expected = pipeline("red", candidates=2, guidance=8.0, seed=5)
    assert expected.scores is None and len(drawn) == 2
    for image, wanted in zip(drawn, expected.pixels, strict=True):
        assert image.shape == (side, side, 3)
        np.testing.assert_array_equal(image, wanted)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "expected _class_name 'UnCLIPPipeline'"),
        ("prior_scheduler/scheduler_config.json", {"clip_sample_range": 4.0}, "clip_sample_range = '4.0', of which"),
        ("decoder_scheduler/scheduler_config.json", {"prediction_type": "v"}, "prediction_type = 'v', of which"),
        ("super_res_last/config.json", {"sample_size": 7}, "expected upsamplers of one sample_size"),
        ("decoder/config.json", {"sample_size": None}, "expected sample_size as a whole number"),
    ],
)
def test_a_pipeline_that_is_not_implemented_is_refused_before_anything_is_written(
    published, tmp_path, capsys, file, changes, message
):
    shutil.copytree(published, tmp_path / "source")
    path = tmp_path / "source" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert main(["import", "karlo", str(tmp_path / "source"), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list((tmp_path / "out").glob("*/model.gin"))
