"""GLIDE by command: small random networks in the published files are imported, sampled and used to inpaint."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_glide import FILES, published_glide
from small_karlo import random_parameters
from small_unclip import CLIP, small_words

import dalle_jax
from dalle_jax.__main__ import main
from dalle_jax.config.render import render
from dalle_jax.pipelines.edits.painting import inpaint
from dalle_jax.pipelines.imported.glide import GlideFile, GlidePipeline
from dalle_jax.pipelines.load.models import ModelFile
from dalle_jax.train.checkpoints.save_weights import save_weights

EVALUATION = str(Path(__file__).parents[2] / "configs" / "demo" / "evaluation.gin")
SMALL = GlideFile(base_side=4, side=8, steps=3, guidance=30.0)
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
MASK = np.zeros((8, 8), bool)
MASK[2:5, 3:7] = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write a folder of published files; import "text2im" and "inpaint" from it, for images of 8 px."""
    out = tmp_path_factory.mktemp("glide")
    source = published_glide(out / "published", tuple(FILES))
    for kind in ("text2im", "inpaint"):
        assert main(["import", f"glide-{kind}", str(source), str(out / kind)]) == 0
        file = out / kind / "glide.gin"
        assert file.read_text() == render(GlideFile())  # the published sizes and steps
        file.write_text(render(SMALL))
    words = {"text.model": small_words()}
    for name, timesteps in (("guide", 1000), ("clean", 0)):
        config = replace(CLIP, image_size=SMALL.base_side, patch=2, timesteps=timesteps)
        text = render(ModelFile(config))
        save_weights(out / name, random_parameters(config, 1), text, {"model.gin": text.encode(), **words})
    return out


def test_images_by_command_are_those_of_the_pipeline_with_the_guidance_of_glide_gin(folder, tmp_path):
    command = ["sample", "--model", str(folder / "text2im"), "--prompt", "red", "--candidates", "2", "--seed", "5"]
    assert main([*command, "--steps", "2", "--out", str(tmp_path)]) == 0
    pipeline = dalle_jax.load(folder / "text2im", steps=2)
    assert isinstance(pipeline, GlidePipeline) and pipeline.side == 8
    expected = pipeline("red", candidates=2, seed=5, guidance=30.0)
    for rank, wanted in enumerate(expected.pixels):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"0000_{rank:02d}.png")), wanted)
    assert not np.array_equal(expected.pixels, pipeline("red", candidates=2, seed=5, guidance=1.0).pixels)
    alone = pipeline("red", candidates=1, seed=5, first=1, guidance=30.0)
    assert np.abs(alone.pixels[0].astype(int) - expected.candidates[1]).max() <= 1


def test_an_inpainted_image_keeps_its_other_pixels(folder, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "image.png")
    Image.fromarray(MASK).save(tmp_path / "mask.png")
    flags = ["--image", str(tmp_path / "image.png"), "--mask", str(tmp_path / "mask.png"), "--prompt", "red"]
    out = tmp_path / "out"
    model = ["--model", str(folder / "inpaint"), "--candidates", "1", "--context", "0"]
    assert main(["inpaint", *model, *flags, "--out", str(out)]) == 0
    written = np.asarray(Image.open(out / "00.png"))
    np.testing.assert_array_equal(written[~MASK], PIXELS[~MASK])
    pipeline = dalle_jax.load(folder / "inpaint")
    called = inpaint(pipeline, PIXELS, "red", mask=MASK, candidates=1, context=0.0)
    np.testing.assert_array_equal(written, called.pixels[0])
    whole = pipeline("red", candidates=1)  # nothing is known
    assert whole.pixels.shape == (1, 8, 8, 3)


def test_an_interrupted_import_is_completed_by_the_same_command_which_keeps_whole_parts(folder, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(folder / "text2im", out)
    (out / "glide.gin").unlink()
    shutil.rmtree(out / "upsampler" / "checkpoints")  # as if killed before its commit
    before = {path: path.stat().st_mtime_ns for path in (out / "base").rglob("*") if path.is_file()}
    command = ["import", "glide-text2im", str(folder / "published"), str(out)]
    assert main(command) == 0
    assert "base: kept, since it was imported from the same files before" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (out / "base").rglob("*") if path.is_file()}
    assert dalle_jax.load(out).side == 256
    (out / "glide.gin").unlink()
    assert main([*command, "--licence", "other"]) == 2  # no part of a different import is kept
    assert "base: expected a folder without checkpoints" in capsys.readouterr().err


@pytest.mark.slow
def test_a_clip_of_noised_images_guides_the_base(folder):
    plain, off, on = (
        dalle_jax.load(folder / "text2im", **guide)("red", candidates=1, guidance=1.0).pixels.astype(int)
        for guide in ({}, *({"guide_clip": folder / "guide", "clip_scale": scale} for scale in (0.0, 300.0)))
    )
    np.testing.assert_allclose(off, plain, atol=1)
    assert np.abs(on - plain).max() > 5
    with pytest.raises(dalle_jax.UserError, match="expected a CLIP of images of 4 px that was trained on the noise of"):
        dalle_jax.load(folder / "text2im", guide_clip=folder / "clean", clip_scale=1.0)
    with pytest.raises(dalle_jax.UserError, match="clip_scale: expected a scale and a CLIP that guides"):
        dalle_jax.load(folder / "text2im", guide_clip=folder / "guide")


def test_combinations_that_do_not_fit_are_one_line(folder, tmp_path, capsys):
    Image.fromarray(PIXELS).save(tmp_path / "image.png")
    image = ["--image", str(tmp_path / "image.png"), "--out", str(tmp_path / "out")]
    text2im = ["--model", str(folder / "text2im")]
    out, other = str(tmp_path / "out"), str(tmp_path / "other")
    cases = {
        ("outpaint", *text2im, "--right", "4", "--prompt", "red", *image): "expected GLIDE's inpainting networks",
        ("vary", *text2im, *image): "got a model that decodes no CLIP embedding (GlidePipeline)",
        ("sample", *text2im, "--sees", "both", "--prompt", "red", "--out", out): "sees: expected none",
        ("evaluate", EVALUATION, *text2im, "--out", out): "expected a CLIP, got none; give its folder with --clip DIR",
        ("import", "glide-inpaint", str(tmp_path), other): "got no base_inpaint.pt, upsample_inpaint.pt",
    }
    for command, message in cases.items():
        assert main(list(command)) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
