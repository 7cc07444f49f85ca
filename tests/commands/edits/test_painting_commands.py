"""The commands ``inpaint`` and ``outpaint`` on a small untrained unCLIP."""

import json

import numpy as np
import pytest
from PIL import Image
from small_painters import write_pixel_unclip
from small_unclip import write_unclip

import dalle_jax
from dalle_jax.__main__ import main
from dalle_jax.commands.edits import painting_flags
from dalle_jax.pipelines.edits.painting import inpaint
from dalle_jax.pipelines.imported.karlo import Karlo

PIXELS = np.random.default_rng(0).integers(0, 256, (21, 33, 3), np.uint8)
MASK = np.zeros((21, 33), bool)
MASK[4:12, 20:30] = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("unclip")
    write_unclip(made)
    Image.fromarray(PIXELS).save(made / "image.png")
    Image.fromarray(PIXELS).save(made / "image.jpg")
    Image.fromarray(MASK).save(made / "mask.png")
    Image.fromarray(MASK.T).save(made / "turned.png")
    Image.fromarray(np.zeros_like(MASK)).save(made / "black.png")
    return made


def run(command: str, folder, out, *more: str) -> int:
    prompt = ("--prompt", "a red circle", "--candidates", "2")
    return main([command, "--model", str(folder), "--out", str(out), *prompt, *more])


def lines_of(out) -> list[dict]:
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


def test_an_inpainted_file_has_every_other_pixel_and_is_that_of_the_python_call(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    assert run("inpaint", folder, tmp_path, "--image", "image.png", "--mask", "mask.png", "--seed", "5") == 0
    found = lines_of(tmp_path)
    assert [one["file"] for one in found] == ["00.png", "01.png"] and found[0]["score"] >= found[1]["score"]
    called = inpaint(dalle_jax.load(folder), PIXELS, "a red circle", mask=MASK, candidates=2, seed=5)
    for line, image in zip(found, called.images, strict=True):
        written = np.asarray(Image.open(tmp_path / line["file"]))
        np.testing.assert_array_equal(written[~MASK], PIXELS[~MASK])
        np.testing.assert_array_equal(written, np.asarray(image))
    assert (tmp_path / "grid.png").exists()


def test_an_outpainted_jpeg_becomes_a_png_of_the_new_size(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    flags = ("--image", "image.jpg", "--size", "40x30", "--anchor", "bottom-right", "--keep", "1")
    assert run("outpaint", folder, tmp_path, *flags) == 0
    (line,) = lines_of(tmp_path)
    with Image.open(tmp_path / line["file"]) as image:
        assert (image.format, image.size) == ("PNG", (40, 30))
        np.testing.assert_array_equal(np.asarray(image)[9:, 7:], np.asarray(Image.open("image.jpg")))


def test_a_decoder_of_pixels_fills_holes_by_the_same_commands(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    write_pixel_unclip(tmp_path)
    assert run("inpaint", tmp_path, tmp_path / "in", "--image", "image.png", "--mask", "mask.png") == 0
    for line in lines_of(tmp_path / "in"):
        written = np.asarray(Image.open(tmp_path / "in" / line["file"]))
        np.testing.assert_array_equal(written[~MASK], PIXELS[~MASK])
        assert (written[MASK] != PIXELS[MASK]).any(axis=-1).mean() > 0.5
    assert run("outpaint", tmp_path, tmp_path / "out", "--image", "image.png", "--right", "5") == 0
    (first, *_) = lines_of(tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / first["file"]))[:, :33], PIXELS)


@pytest.mark.parametrize(
    ("command", "more", "word"),
    [
        ("inpaint", ("--image", "image.png"), "mask: expected one for an image without transparency"),
        ("inpaint", ("--image", "image.png", "--mask", "turned.png"), "expected 33 x 21 px, the size of the image"),
        ("inpaint", ("--image", "image.png", "--mask", "black.png"), "expected at least one pixel to fill"),
        ("inpaint", ("--image", "missing.png"), "missing.png"),
        ("inpaint", ("--image", "image.png", "--mask", "mask.png", "--temperature", "0.5"), "temperature"),
        ("outpaint", ("--image", "image.png"), "left, right, top, bottom: expected 0 or more"),
        ("outpaint", ("--image", "image.png", "--size", "40"), "size: expected WIDTHxHEIGHT in pixels"),
        ("outpaint", ("--image", "image.png", "--size", "40x5"), "size: expected at least that of the image, 33x21"),
        ("outpaint", ("--image", "image.png", "--size", "40x40", "--left", "3"), "expected either --size or sides"),
    ],
)
def test_wrong_flags_are_one_line_errors_and_write_nothing(folder, tmp_path, capsys, monkeypatch, command, more, word):
    monkeypatch.chdir(folder)
    assert run(command, folder, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_that_fills_no_holes_is_a_one_line_error(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(painting_flags, "load_pipeline", lambda *_, **__: object.__new__(Karlo))
    assert run("inpaint", folder, tmp_path / "out", "--image", "image.png") == 2
    error = capsys.readouterr().err
    assert "expected a model that fills holes, got Karlo" in error and error.count("\n") == 1
