"""The commands ``vary``, ``interpolate`` and ``edit`` on a small untrained unCLIP."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_unclip import write_unclip

import dalle_jax
from dalle_jax.__main__ import main

PAGE = Path(__file__).parents[3] / "docs" / "editing.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("unclip")
    write_unclip(made)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    for name in ("a", "b"):
        Image.fromarray(pixels if name == "a" else pixels[::-1]).save(made / f"{name}.png")
    return made


def run(command: str, folder, out, *more: str) -> int:
    return main([command, "--model", str(folder), "--out", str(out), *more])


def lines_of(out) -> list[dict]:
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


def test_variations_are_written_in_the_size_of_the_image_and_ranked_by_the_text(folder, tmp_path, capsys):
    flags = ("--image", str(folder / "a.png"), "--text", "a red circle " * 9, "--candidates", "2", "--original-size")
    assert run("vary", folder, tmp_path, *flags) == 0
    found = lines_of(tmp_path)
    assert len(found) == 2 and found[0]["score"] >= found[1]["score"]
    assert Image.open(tmp_path / found[0]["file"]).size == (20, 20)
    assert (tmp_path / "grid.png").exists()
    assert "WARNING: 1 of 1 texts were truncated to the 6 tokens of CLIP" in capsys.readouterr().err


def test_an_interpolation_is_frames_a_strip_and_a_gif(folder, tmp_path):
    ends = [word for name in ("a", "b") for word in ("--image", str(folder / f"{name}.png"))]
    assert run("interpolate", folder, tmp_path, *ends, "--frames", "3") == 0
    assert [line["share"] for line in lines_of(tmp_path)] == [0.0, 0.5, 1.0]
    assert (tmp_path / "strip.png").exists()
    with Image.open(tmp_path / "frames.gif") as gif:
        assert gif.n_frames == 4 and gif.size == (16, 16)  # forth, and back without the ends


def test_texts_are_interpolated_too(folder, tmp_path):
    ends = ("--text", "a red circle", "--text", "a blue square", "--candidates", "2")
    assert run("interpolate", folder, tmp_path, *ends, "--frames", "2") == 0
    assert len(lines_of(tmp_path)) == 4 and lines_of(tmp_path)[0]["score"] >= lines_of(tmp_path)[2]["score"]


def test_an_edit_has_a_result_for_each_strength(folder, tmp_path):
    texts = ("--from", "a red circle", "--to", "a blue circle", "--strength", "0.2", "--strength", "0.4")
    assert run("edit", folder, tmp_path, "--image", str(folder / "a.png"), *texts) == 0
    found = lines_of(tmp_path)
    assert [line["prompt"] for line in found] == ["a red circle to a blue circle"] * 2
    assert found[0]["score"] >= found[1]["score"]


@pytest.mark.parametrize(
    ("command", "more", "word"),
    [
        ("vary", ("--image", "missing.png"), "missing.png"),
        ("vary", ("--image", "a.png", "--eta", "2"), "eta: expected between 0 and 1"),
        ("edit", ("--image", "a.png", "--from", "x"), "--to"),
        ("interpolate", ("--image", "a.png"), "images: expected two, got 1"),
        ("interpolate", ("--text", "a red circle", "--text", "x", "--original-size"), "--original-size"),
    ],
)
def test_wrong_flags_are_one_line_errors(folder, tmp_path, capsys, monkeypatch, command, more, word):
    monkeypatch.chdir(folder)
    assert run(command, folder, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_transformer_is_an_error_that_says_what_it_can_do(smoke_demo, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    assert run("vary", smoke_demo, tmp_path / "out", "--image", str(tmp_path / "x.png")) == 2
    assert "vary: expected an unCLIP" in (error := capsys.readouterr().err) and "--given-rows" in error


@pytest.mark.slow
def test_the_python_blocks_of_the_page_on_embedding_edits_run(folder, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo-unclip").symlink_to(folder)
    for name, source in (("best", "a"), ("a", "a"), ("b", "b")):
        (tmp_path / f"{name}.png").symlink_to(folder / f"{source}.png")
    monkeypatch.chdir(tmp_path)
    own = PAGE.read_text(encoding="utf-8").partition("\n## Variations\n")[2]
    blocks = re.findall(r"^```python\n(.*?)^```$", own, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    names: dict = {"unclip": dalle_jax.load("runs/demo-unclip")}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["varied"].pixels.shape == (4, 16, 16, 3)
    assert names["between"].frames.shape == (1, 8, 16, 16, 3)
    assert names["edited"].pixels.shape == (3, 16, 16, 3)
