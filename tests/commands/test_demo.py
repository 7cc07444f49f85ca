import json
import os
from statistics import fmean

import jax
from flax import nnx

from dalle_jax.__main__ import main
from dalle_jax.pipelines.load.models import load_clip
from dalle_jax.pipelines.load.pipeline import load_pipeline, recommended_sampling
from dalle_jax.storage import place


def test_the_demo_writes_a_report_its_metrics_and_a_pipeline(smoke_demo):
    assert (smoke_demo / "report.html").read_text().startswith("<!doctype html>")
    metrics = json.loads((smoke_demo / "metrics.json").read_text())
    assert metrics["wall_seconds"] > 0
    assert metrics["reconstruction"]["psnr"] > 0
    for level in ("level_1", "level_2"):
        for split in ("seen", "held_out"):
            cell = metrics["composition"][level][split]
            assert 0 <= cell["first"] <= cell["any_of_4"] <= 1
            assert cell["count"] == 2
    assert 0 <= metrics["clip"]["retrieval_top1"] <= 1
    assert metrics["transformer"]["image_nll"] > 0
    means = {
        float(scale): -fmean(cell["first"] for splits in levels.values() for cell in splits.values())
        for scale, levels in metrics["guidance"].items()
    }
    best = min(means, key=lambda scale: (means[scale], scale))
    assert load_pipeline(smoke_demo).options().guidance == recommended_sampling(smoke_demo).guidance == best
    for stage in ("tokenizer", "clip", "transformer"):
        assert (smoke_demo / stage / "model.gin").exists()
    clip = jax.tree.leaves(nnx.state(load_clip(place(str(smoke_demo / "clip"))), nnx.Param))
    assert metrics["stages"]["clip"]["parameters"] == sum(one.size for one in clip)


def test_a_finished_demo_does_not_train_again(smoke_demo, capsys):
    before = {path: os.stat(path).st_mtime_ns for path in smoke_demo.glob("*/metrics.jsonl")}
    steps = json.loads((smoke_demo / "stages.json").read_text())["transformer"]["steps"]
    assert main(["demo", "smoke/demo.gin", "--out", str(smoke_demo)]) == 0
    assert steps == json.loads((smoke_demo / "stages.json").read_text())["transformer"]["steps"]
    for path in before:
        assert all(json.loads(line)["step"] <= 2 for line in path.read_text().splitlines())


def test_a_wrong_config_of_a_later_stage_is_reported_before_any_stage_runs(tmp_path, capsys):
    wrong = tmp_path / "wrong.gin"
    wrong.write_text("# wrong\ninclude 'smoke/dalle.gin'\ntask.model.widht = 3\n")
    out = tmp_path / "out"
    assert main(["demo", "smoke/demo.gin", "--set", f"stages.transformer='{wrong}'", "--out", str(out)]) == 2
    assert "widht" in capsys.readouterr().err
    assert not out.exists()


def test_a_stage_without_a_config_file_is_reported_by_its_name(tmp_path, capsys):
    assert main(["demo", "smoke/demo.gin", "--set", "stages.clip=2", "--out", str(tmp_path / "out")]) == 2
    assert "stages.clip: expected a config file, got '2'; stages.clip.PATH=VALUE" in capsys.readouterr().err


def test_an_unwritable_folder_is_a_one_line_error(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["demo", "smoke/demo.gin", "--out", str(blocked / "demo")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(blocked) in error
