"""``demo`` on few images and few words, made small by ``--set stages.NAME.PATH=VALUE``."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dalle_jax.__main__ import main

COLOURS = [(220, 30, 30), (30, 180, 60), (40, 60, 220), (250, 250, 250), (10, 10, 10), (240, 200, 20)]
EVALUATION = "stages.evaluation.evaluations.captioned."
SMALL = [
    *("data.images.size=16", "data.workers=0"),
    *(f"stages.{name}.trainer.steps=2" for name in ("tokenizer", "clip", "transformer")),
    *(f"stages.{name}.trainer.images_every=None" for name in ("tokenizer", "transformer")),
    *("stages.tokenizer.task.image_size=16", "stages.transformer.task.image_size=16"),
    *("stages.tokenizer.task.model.width=8", "stages.tokenizer.task.model.blocks=1"),
    *("stages.tokenizer.task.model.codebook_size=16", "stages.transformer.task.model.codebook_size=16"),
    *("stages.clip.task.model.image_size=16", "stages.clip.task.model.patch=8"),
    *("stages.clip.task.model.vision.layers=1", "stages.clip.task.model.text.layers=1"),
    *("stages.clip.task.model.vision.width=8", "stages.clip.task.model.text.width=8"),
    *("stages.transformer.task.model.grid=(4, 4)", "stages.transformer.task.model.width=16"),
    *("stages.transformer.task.model.heads=1", "stages.transformer.task.model.depth=1"),
    *(EVALUATION + "drawing.candidates=2", EVALUATION + "drawing.batch=8"),
]


ONE_DEVICE = [f"stages.{name}.mesh.data=1" for name in ("tokenizer", "clip", "transformer")]
"""The smoke demo trains on all eight devices."""


def images(folder: Path, count: int) -> Path:
    """Create a folder with the given number of captioned squares; the captions have few words."""
    folder.mkdir()
    for number in range(count):
        pixels = np.empty((20, 24, 3), np.uint8)
        pixels[:], pixels[4:12, 6:14] = COLOURS[number % 6], COLOURS[number // 6 % 6]
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        (folder / f"p{number:03d}.png").write_bytes(content.getvalue())
        (folder / f"p{number:03d}.txt").write_text(f"square {number} on colour {number % 6}")
    return folder


def demo(folder: Path, out: Path, *sets: str, small: bool = True) -> int:
    source = ["data.source=@Folder", f"data.source.path='{folder}'"]
    flags = [word for one in (*source, *(SMALL if small else ()), *sets) for word in ("--set", one)]
    return main(["demo", "runs/your_data/all.gin", *flags, "--out", str(out)])


def test_two_hundred_images_train_a_demo_and_all_held_out_images_are_measured(tmp_path, capsys):
    """With the batches of the page: 64, 256 and 32, on 187 images with 13 held out."""
    assert demo(images(tmp_path / "images", 200), tmp_path / "out", *ONE_DEVICE) == 0
    said = capsys.readouterr().out
    for line in (
        "stages.clip.data.batch_size: 256 with 187 images for training, so images occur several times in a batch",
        EVALUATION + "captions: 48 lowered to 13, the number of held-out images",
        EVALUATION + "shown: 24 lowered to 13, the number of held-out images",
        EVALUATION + "among: 100 lowered to 13, the number of held-out images",
    ):
        assert f"[demo] {line}\n" in said.split("training the tokenizer")[0]
    assert "vocab_size: 1024 lowered to" in said and "text_vocab: 1024 lowered to" in said
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["reconstruction"]["count"] == 13
    assert 0 <= metrics["clip"]["retrieval_top1"] <= metrics["clip"]["retrieval_top5"] <= 1
    assert metrics["clip"]["retrieval_top1"] * 13 == pytest.approx(round(metrics["clip"]["retrieval_top1"] * 13))
    assert metrics["transformer"]["image_nll"] == pytest.approx(np.log(16), rel=0.3)
    for stage, name in (("tokenizer", "psnr"), ("clip", "retrieval_top1"), ("transformer", "image_nll")):
        lines = (tmp_path / "out" / stage / "metrics.jsonl").read_text().splitlines()
        assert any(f"evaluation/{name}" in line for line in lines)


@pytest.mark.slow
def test_one_image_is_trained_on_with_no_evaluation(tmp_path, capsys):
    sets = [f"stages.{name}.data.batch_size=8" for name in ("tokenizer", "clip", "transformer")]
    sets = ["data.evaluation=None", *sets, *ONE_DEVICE]
    assert demo(images(tmp_path / "images", 1), tmp_path / "out", *sets) == 0
    said = capsys.readouterr().out
    assert "stages.tokenizer.data.batch_size: 8 with 1 images for training" in said
    assert "[demo] data.evaluation: no images are held out, so nothing is measured" in said
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["stages"]["transformer"]["steps"] == 2 and "reconstruction" not in metrics
    page = (tmp_path / "out" / "report.html").read_text()
    assert "square 0 on colour 0" in page and "nothing is measured" in page


def test_holding_out_the_only_image_is_a_one_line_error_with_a_fix_before_training(tmp_path, capsys):
    assert demo(images(tmp_path / "images", 1), tmp_path / "out", "data.evaluation.share=0.9999999") == 2
    error = capsys.readouterr().err
    assert "data.evaluation: expected some of data.source to be left to train on, got all 1 held out" in error
    assert "data.evaluation = None" in error
    assert not (tmp_path / "out" / "text.model").exists()


def test_all_problems_are_reported_together_before_training(tmp_path, capsys):
    wrong = (
        *("stages.text.vocabulary=40", "stages.clip.task.model.vocab_size=50"),
        *("stages.transformer.task.model.text_vocab=40", "stages.transformer.task.model.grid=(8, 8)"),
        *("stages.tokenizer.task.model.codebook_size=32", "stages.transformer.task.model.code_width=8"),
        *("stages.clip.data.batch_size=12", "stages.tokenizer.data.batch_size=20", "stages.tokenizer.mesh.data=5"),
    )
    assert demo(images(tmp_path / "images", 30), tmp_path / "out", *wrong) == 2
    error = capsys.readouterr().err.replace("dalle-jax: error: ", "")
    for line in (
        "stages.clip.task.model.vocab_size: expected 40, the number of pieces of the text tokenizer, got 50",
        "stages.transformer.task.model.codebook_size: expected 32, the codes of the image tokenizer, got 16",
        "stages.transformer.task.model.code_width: expected 16, the width of the image tokenizer's code vectors, or 0",
        "stages.transformer.task.model.grid: expected (4, 4), the grid of codes for 16 px, got (8, 8)",
        "stages.clip.data.batch_size: expected a multiple of 8 (8 devices, accumulate 1), got 12; the nearest are 8 an",
    ):
        assert f"\n{line}" in f"\n{error}"
    assert error.count("\n") == 5  # the tokenizer's batch of 20 is fine on its 5 devices
    assert not (tmp_path / "out" / "text.model").exists()


def test_a_wrong_image_size_is_reported_for_every_stage(tmp_path, capsys):
    folder = images(tmp_path / "images", 2)
    assert demo(folder, tmp_path / "out", "data.images.size=64", small=False) == 2
    error = capsys.readouterr().err
    for name in ("tokenizer", "clip", "transformer"):
        assert f"stages.{name}: data.images.size: expected 32" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("one", "said"),
    [
        ("stages.klip.trainer.steps=2", "did you mean clip?"),
        ("stages.clip.trainer.step=2", "trainer.step: no such name; did you mean trainer.steps?"),
        ("stages.clip.trainer.steps=two", "trainer.steps: expected an int, got two"),
        ("stages.clip.data.seed=1", "the demo uses its own data for every stage"),
        ("stages.text.held_out.share=0.5", "the demo uses its own data for every stage"),
        ("stages.clip.task.image_tokenizer=None", "the demo sets task.image_tokenizer itself"),
    ],
)
def test_an_invalid_setting_of_a_stage_is_a_one_line_error_that_quotes_it(tmp_path, capsys, one, said):
    assert demo(tmp_path, tmp_path / "out", one, small=False) == 2
    error = capsys.readouterr().err
    assert f"--set {one}: " in error and said in error and error.count("\n") == 1
