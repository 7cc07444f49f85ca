"""Tesseract as a reader: on real signs where it is installed, and on programs that stand in for it."""

import shutil

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.readers.sign_board import BOARD_HEIGHT, ink_on_white
from dalle_jax.evaluate.readers.tesseract import Tesseract
from dalle_jax.scenes.grammar import sample_scene
from dalle_jax.scenes.rendering import render

installed = pytest.mark.skipif(shutil.which("tesseract") is None, reason="needs the program tesseract")


def signs(count: int, size: int):
    rng = np.random.default_rng(3)
    scenes = [sample_scene(6, rng, "held_out" if i % 3 == 0 else "train") for i in range(count)]
    return [render(scene, size, rng) for scene in scenes], [scene.word for scene in scenes]


def program(folder, script: str) -> Tesseract:
    """Return a reader whose program is a shell script."""
    path = folder / "tesseract"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return Tesseract(str(path), seconds=5.0)


@installed
def test_tesseract_reads_at_least_95_percent_of_clean_signs_of_128_pixels():
    images, words = signs(40, 128)
    read = Tesseract().read(images)
    assert np.mean([one == word for one, word in zip(read, words, strict=True)]) >= 0.95


@installed
def test_its_name_states_version_and_language():
    assert Tesseract().name.startswith("tesseract ") and Tesseract().name.endswith(" eng")


def test_without_the_program_there_is_one_line():
    with pytest.raises(UserError, match=r"no-such-program: expected Tesseract 5 to be installed .*, found none"):
        Tesseract("no-such-program").read(signs(1, 32)[0])


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no data >&2; exit 3", r"expected exit status 0, got 3 \(no data\)"),
        ("exec sleep 60", r"expected an answer within 0.2 s, got none"),
        (r"printf 'A\n\fB\n\fC\n'", r"expected a page for each of 2 images, got 3"),
    ],
)
def test_a_program_that_fails_is_one_line(tmp_path, script, message):
    reader = Tesseract(program(tmp_path, script).program, seconds=0.2 if "sleep" in script else 5.0)
    with pytest.raises(UserError, match=message):
        reader.read(signs(2, 32)[0])


@pytest.mark.parametrize("output", [r"A B\n\fcd\n", r"A B\n\fcd\n\f"])
def test_pages_are_split_at_form_feeds_between_them_or_after_each(tmp_path, output):
    assert program(tmp_path, f"printf '{output}'").read(signs(2, 32)[0]) == ["AB", "cd"]


def test_an_old_program_and_one_without_english_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"expected tesseract 4 or later, got 'tesseract 3\.05'"):
        _ = program(tmp_path, "echo tesseract 3.05").name
    with pytest.raises(UserError, match="expected its English model, found none"):
        _ = program(tmp_path, 'if [ "$1" = --version ]; then echo tesseract 5.3.0; else echo deu; fi').name


def test_the_board_is_cut_out_and_its_ink_is_dark():
    (image, *_), _ = signs(1, 128)
    board = ink_on_white(image)
    assert board.shape[0] == BOARD_HEIGHT
    assert np.median(board) == 255
    assert board.min() < 30
    assert np.concatenate([board[0], board[-1], board[:, 0], board[:, -1]]).min() > 200  # nothing of the ground


def test_an_image_without_a_board_is_read_whole():
    blank = np.full((64, 64, 3), 90, np.uint8)
    assert (ink_on_white(blank) == 255).all()
