"""Suites of a training run, on the pipeline of its folder."""

import json

import pytest

from dalle_jax.__main__ import main

pytestmark = pytest.mark.slow


def test_a_run_measures_its_own_images_with_features_and_signs(smoke_demo, tmp_path, capsys):
    sets = {
        "task.captions.file": f"'{smoke_demo / 'text.model'}'",
        "task.image_tokenizer": f"'{smoke_demo / 'tokenizer'}'",
        "data.evaluation.count": 60,
        "trainer.steps": 2,
        "trainer.suites_every": 1,
        "trainer.images_every": None,
        "suite_clip": f"'{smoke_demo / 'clip'}'",
    }
    config, out = tmp_path / "run.gin", tmp_path / "run"
    clip = smoke_demo / "clip"
    config.write_text(
        "include 'smoke/dalle.gin'\n"
        + "".join(f"{name} = {value}\n" for name, value in sets.items())
        + "suites.signs = @EvaluateText\nsuites.signs.captions = 2\nsuites.signs.shown = 1\n"
        "suites.signs.readers = ('scenes',)\nsuites.signs.drawing.candidates = 2\nsuites.signs.drawing.batch = 8\n"
        "suites.images = @EvaluateImages\nsuites.images.captions = 100\nsuites.images.drawing.candidates = 2\n"
        f"suites.images.drawing.batch = 8\nsuites.images.features = ('clip:{clip}',)\n"
        "suites.codes = @EvaluateReconstruction\nsuites.codes.features = ()\nsuites.codes.distances = ()\n"
        f"suites.images.distances = ('kid',)\nsuites.images.judge_clip = '{clip}'\nsuites.images.shown = 2\n"
    )
    assert main(["train", str(config), "--out", str(out)]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "suites/signs/scenes/seen/first/word_accuracy" in line]
    assert steps == [1, 2]
    last = next(line for line in reversed(lines) if "suites/images/first/clip/kid" in line)
    assert last["suites/signs/scenes/seen/clean/word_accuracy"] == 1.0
    assert last["suites/images/first/clip/kid"] > 0
    assert last["suites/codes/pairs/psnr"] > 5
    assert 0 <= last["suites/images/chosen/captions/retrieval_top5"] <= 1
    assert "images: first candidate, clip: kid" in capsys.readouterr().err
