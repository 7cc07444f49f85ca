"""The unCLIP demo: a smoke run of all stages with the tokenizers of a smoke demo, and mistakes in its flags."""

import json

import pytest

from dalle_jax.__main__ import main


@pytest.mark.slow
def test_the_demo_takes_the_tokenizers_of_a_demo_and_leaves_a_page_and_its_figures(smoke_demo, tmp_path):
    out = tmp_path / "unclip"
    shared = ["demo-unclip", "smoke/demo_unclip.gin", "--set", f"demo='{smoke_demo}'", "--out", str(out)]
    assert main(shared) == 0
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["wall_seconds"] > 0
    assert metrics["stages"].keys() == {"clip", "prior", "decoder", "sampling"}
    assert not (out / "tokenizer").exists()
    for level in ("level_1", "level_2"):
        for split in ("seen", "held_out"):
            cell = metrics["composition"][level][split]
            assert 0 <= cell["first"] <= cell["any_of_4"] <= 1
            for other in (metrics["vectors"]["true"], metrics["vectors"]["text"], metrics["glide"]):
                assert 0 <= other[level][split]["first"] <= 1
    assert metrics["edits"].keys() == {"inpaint", "outpaint", "vary", "interpolate", "edit"}
    assert metrics["edits"]["inpaint"]["unmasked_equal"] == 1
    assert -1 <= metrics["clip"]["pair_cosine"] <= 1
    assert f"{smoke_demo}" in (out / "decoder" / "model.gin").read_text()
    flags = ["--prompt", "a red circle", "--candidates", "1", "--out", str(tmp_path / "sampled")]
    assert main(["sample", "--model", str(out), *flags]) == 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stages.transformer.trainer.steps=1", "expected stages.NAME.PATH=VALUE with NAME of text, tokenizer, clip"),
        ("stages.prior.task.model.widht=3", "widht"),
        ("stpes=3", "stpes"),
    ],
)
def test_a_wrong_flag_is_told_before_anything_runs(tmp_path, capsys, setting, message):
    out = tmp_path / "out"
    assert main(["demo-unclip", "smoke/demo_unclip.gin", "--set", setting, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
