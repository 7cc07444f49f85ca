import argparse
import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from dalle_jax.__main__ import main
from dalle_jax.commands.sample import add_option_flags, given_options
from dalle_jax.pipelines.request import RequestOptions
from tests.pipelines.bulk.fake_engine import kept_images


def sample(smoke_demo, out, *more: str) -> int:
    return main(["sample", "--model", str(smoke_demo), "--out", str(out), "--batch", "8", *more])


def test_kept_images_are_in_the_order_of_their_scores(smoke_demo, tmp_path):
    flags = ("--prompt", "a small red circle", "--candidates", "4", "--keep", "2", "--guidance", "2")
    assert sample(smoke_demo, tmp_path / "a", *flags) == 0
    lines = [json.loads(line) for line in (tmp_path / "a" / "scores.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["a small red circle"] * 2
    assert lines[0]["score"] >= lines[1]["score"]
    for line in lines:
        image = Image.open(tmp_path / "a" / line["file"])
        assert image.size == (32, 32)
        assert image.text["prompt"] == "a small red circle"
    assert (tmp_path / "a" / "grid.png").exists()


def test_jacobi_decoding_prints_its_passes_and_draws_the_same_images(smoke_demo, tmp_path, capsys):
    flags = ("--prompt", "a small red circle", "--candidates", "2", "--guidance", "2")
    assert sample(smoke_demo, tmp_path / "plain", *flags) == 0
    assert "passes" not in capsys.readouterr().out
    assert sample(smoke_demo, tmp_path / "jacobi", *flags, "--decoding", "jacobi", "--window", "8") == 0
    found = re.search(r"passes of the transformer for the images of a prompt: (\d+) to (\d+)", capsys.readouterr().out)
    assert found is not None
    assert int(found[1]) == int(found[2]) < 15  # of 4 x 4 codes
    for name in ("0000_00.png", "0000_01.png"):
        plain, jacobi = (Image.open(tmp_path / folder / name) for folder in ("plain", "jacobi"))
        assert plain.tobytes() == jacobi.tobytes()


def test_int8_weights_and_a_bfloat16_cache_are_flags_of_sample(smoke_demo, tmp_path):
    flags = ("--prompt", "a small red circle", "--candidates", "2", "--weights", "int8", "--cache", "bfloat16")
    assert sample(smoke_demo, tmp_path / "a", *flags) == 0
    assert Image.open(tmp_path / "a" / "0000_00.png").size == (32, 32)


def test_each_line_of_a_prompt_file_is_sampled(smoke_demo, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n\n a blue square above a pink ring \n")
    assert sample(smoke_demo, tmp_path / "b", "--prompts", str(prompts), "--candidates", "4", "--keep", "1") == 0
    lines = [json.loads(line) for line in (tmp_path / "b" / "scores.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["a red circle", "a blue square above a pink ring"]


def bulk(smoke_demo, out, *more: str) -> int:
    flags = ("--tars", "--shard-prompts", "2", "--candidates", "4", "--keep", "2", "--guidance", "2")
    return sample(smoke_demo, out, *flags, *more)


def test_tars_have_the_images_of_the_plain_command_and_the_same_command_resumes(smoke_demo, tmp_path, capsys):
    rows = [{"prompt": "a red circle"}, {"prompt": "a blue ring", "seed": 3}, {"prompt": "a pink star", "keep": 1}]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain, tars = tmp_path / "plain", tmp_path / "tars"
    flags = ("--prompts", str(prompts), "--candidates", "4", "--keep", "2", "--guidance", "2")
    assert sample(smoke_demo, plain, *flags) == 0
    assert bulk(smoke_demo, tars, "--prompts", str(prompts)) == 0
    assert "has 5 images of 3 prompts in 2 tars; 0 of 2 shards were there already, 12" in capsys.readouterr().out
    lines = [json.loads(line) for line in (plain / "scores.jsonl").read_text().splitlines()]
    images = kept_images(tars)
    assert [(one["caption"], one["candidate"]) for one, _ in images] == [
        (line["prompt"], line["candidate"]) for line in lines
    ]
    for line, (record, image) in zip(lines, images, strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(plain / line["file"])))
        assert record["score"] == pytest.approx(line["score"], abs=1e-5)
    (tars / "00001_stats.json").unlink()
    assert bulk(smoke_demo, tars, "--prompts", str(prompts)) == 0
    assert "1 of 2 shards were there already, 4 images sampled" in capsys.readouterr().out
    assert bulk(smoke_demo, tars, "--prompts", str(prompts), "--seed", "1") == 2
    assert "options.seed was 0 and is 1. Choose a different --out" in capsys.readouterr().err
    assert not (tars / ".lock").exists()


def test_bad_rows_of_two_prompts_files_are_named_before_the_model_is_loaded(smoke_demo, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "top_p": 2}\n')
    (tmp_path / "b.jsonl").write_text('{"promt": "c"}\n')
    flags = ("--prompts", str(tmp_path / "a.jsonl"), "--prompts", str(tmp_path / "b.jsonl"))
    assert bulk(smoke_demo, tmp_path / "out", *flags) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("a.jsonl: row 2: top_p: expected in (0, 1], got 2.0")
    assert "b.jsonl: row 1: promt: expected prompt, negative_prompt" in second and "did you mean prompt" in second
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_written_is_refused_before_the_model_is_loaded(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    command = ["sample", "--model", str(tmp_path / "no model"), "--prompt", "a red circle"]
    assert main([*command, "--out", str(tmp_path / "file" / "out")]) == 2
    assert main([*command, "--out", str(tmp_path / "file")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all(f"cannot write {tmp_path / 'file'}" in line for line in errors)


def test_the_top_of_a_given_image_is_kept(smoke_demo, tmp_path):
    Image.fromarray(np.full((32, 32, 3), 128, np.uint8)).save(tmp_path / "grey.png")
    flags = ("--prompt", "a circle", "--candidates", "3", "--given-image", str(tmp_path / "grey.png"))
    assert sample(smoke_demo, tmp_path / "c", *flags) == 0
    assert len((tmp_path / "c" / "scores.jsonl").read_text().splitlines()) == 3  # fewer than are kept by default


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--prompt", "x", "--candidates", "0"), "candidates"),
        (("--prompt", "x", "--keep", "17"), "keep"),
        (("--prompt", "x", "--top-p", "0"), "top_p"),
        (("--prompt", "x", "--temperature", "-1"), "temperature"),
        (("--prompt", "x", "--temperature", "nan"), "temperature"),
        (("--prompt", "x", "--seed", "-1"), "seed"),
        (("--prompt", "x", "--given-rows", "2", "--given-image", "x.png"), "given_rows"),
        (("--prompt", "x", "--given-image", "missing.png"), "missing.png"),
        (("--prompts", "missing.txt"), "missing.txt"),
        (("--prompt", "x", "--clip", "nowhere"), "nowhere"),
        (("--promt", "x"), "prompt"),
        (("--prompts", "x.txt", "--tars", "--ranker", "both"), "--ranker: expected clip with --tars"),
        (("--prompt", "x", "--tars"), "--prompt: expected none with --tars"),
        (("--prompt", "x", "--negative-prompt", "y", "--guidance", "1"), "negative_prompt"),
        (("--prompt", "x", "--caption", "y"), "--caption: expected one for each --class-id"),
    ],
)
def test_a_wrong_flag_is_a_one_line_error_that_names_it(smoke_demo, tmp_path, capsys, flags, word):
    assert sample(smoke_demo, tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert len([line for line in error.splitlines() if not line.startswith("WARNING")]) == 1
    assert word in error
    assert not (tmp_path / "out").exists()


def test_every_sampling_option_is_a_flag_with_its_default_and_a_help_text(capsys):
    assert main(["sample", "--help"]) == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(RequestOptions):
        assert "--" + field.name.replace("_", "-") in shown and field.metadata["help"][:15] in shown
    parser = argparse.ArgumentParser()
    add_option_flags(parser)
    assert given_options(parser.parse_args([])) == {}  # the model's recommended options, else the defaults
    given = given_options(parser.parse_args(["--top-p", "0.5", "--keep", "3", "--top-k", "7"]))
    assert RequestOptions(**given) == RequestOptions(top_p=0.5, keep=3, top_k=7)


def test_a_folder_without_a_model_is_a_one_line_error(tmp_path, capsys):
    assert main(["sample", "--model", str(tmp_path), "--prompt", "x", "--out", str(tmp_path / "o")]) == 2
    assert "model.gin" in capsys.readouterr().err


def test_truncated_prompts_are_a_warning(smoke_demo, tmp_path, capsys):
    long = " ".join(["a small red circle above a large blue square"] * 9)
    flags = ("--prompt", long, "--prompt", "a red circle", "--candidates", "1")
    assert sample(smoke_demo, tmp_path / "d", *flags) == 0
    error = capsys.readouterr().err
    assert "WARNING: 1 of 2 prompts were truncated to the 16 tokens of the transformer (number 1 has " in error
    assert "WARNING: 1 of 2 prompts were truncated to the 16 tokens of CLIP (number 1 has " in error
    assert (
        sample(smoke_demo, tmp_path / "e", "--prompt", "a red circle", "--prompt", "Привет", "--candidates", "1") == 0
    )
    error = capsys.readouterr().err
    assert "WARNING: the transformer knows no letter of 1 of 2 prompts (number 2)\n" in error
