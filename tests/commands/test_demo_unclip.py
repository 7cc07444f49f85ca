"""The unCLIP demo: a smoke run of all stages with the tokenizers of a smoke demo, and mistakes in its flags."""

import json

import pytest

from dalle_jax.__main__ import main
from dalle_jax.commands.demo_unclip import UnclipDemo
from dalle_jax.config.errors import UserError
from dalle_jax.tasks.upsample_images import UpsampleImages


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


def test_a_demo_of_pixels_trains_an_upsampler_and_no_image_tokenizer(tmp_path):
    demo = UnclipDemo.read("runs/unclip_scenes.gin", ["stages.decoder.trainer.steps=7"], tmp_path)
    assert list(demo.stages) == ["clip", "prior", "decoder", "upsampler"] and demo.text is not None
    words, clip = str(tmp_path / "text.model"), str(tmp_path / "clip")
    tasks = {name: stage.task for name, stage in demo.stages.items()}
    assert tasks["clip"].captions.file == tasks["prior"].captions.file == tasks["decoder"].captions.file == words
    assert tasks["prior"].clip == tasks["decoder"].clip == clip and tasks["clip"].image_tokenizer is None
    assert isinstance(tasks["upsampler"], UpsampleImages)
    assert demo.stages["decoder"].trainer.steps == 7
    assert set(demo.pipeline_file().needs) == {"decoder", "prior", "clip", "upsampler"}


def test_a_demo_of_codes_uses_its_own_image_tokenizer_or_that_of_a_finished_demo(tmp_path):
    own = UnclipDemo.read("smoke/demo_unclip.gin", [f"demo='{tmp_path}/none'"], tmp_path / "out")
    tokenizer = str(tmp_path / "out" / "tokenizer")
    assert own.stages["decoder"].task.image_tokenizer == own.stages["clip"].task.align.image_tokenizer == tokenizer
    assert own.pipeline_file().needs["image_tokenizer"] == "tokenizer"
    (tmp_path / "tokenizer").mkdir()
    for file in ("text.model", "tokenizer/model.gin"):
        (tmp_path / file).write_text("")
    reused = UnclipDemo.read("smoke/demo_unclip.gin", [f"demo='{tmp_path}'"], tmp_path / "out")
    assert reused.text is None and "tokenizer" not in reused.stages
    assert reused.pipeline_file().needs["image_tokenizer"] == str(tmp_path / "tokenizer")
    assert reused.stages["prior"].task.captions.file == str(tmp_path / "text.model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["stages.upsampler='smoke/upsampler.gin'"], "upsampler: expected none for a decoder of codes"),
        (["stages.decoder='smoke/prior.gin'"], "decoder: expected @DenoiseCodes or @DenoiseImages"),
        (["stages.tokenizer=None", "demo=None"], "tokenizer: expected the config of the image tokenizer"),
        (["stages.clip=None"], "expected a config file for each of text, clip, prior, decoder, evaluation"),
    ],
)
def test_stages_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        UnclipDemo.read("smoke/demo_unclip.gin", changes, tmp_path)
