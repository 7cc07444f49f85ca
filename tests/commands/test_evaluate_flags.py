"""Flags of ``evaluate`` that reach the loaded pipeline."""

import json

import pytest

from dalle_jax.__main__ import main
from dalle_jax.commands import evaluate
from dalle_jax.commands.measuring import measure_images
from dalle_jax.config.errors import UserError
from dalle_jax.models.code_generator import Reduced
from tests.evaluate.suites.image_files import MeanColours, write_images


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], Reduced()),
        (["--weights", "int8"], Reduced(weights="int8")),
        (["--weights", "int8", "--cache", "bfloat16"], Reduced("int8", "bfloat16")),
    ],
)
def test_the_precision_that_flags_give_is_that_of_the_loaded_transformer(flags, expected, monkeypatch, tmp_path):
    given = []

    def load(*folders, batch, layout, reduced):
        given.append(reduced)
        raise UserError("not loaded")

    monkeypatch.setattr(evaluate, "load_pipeline", load)
    assert main(["evaluate", "smoke/evaluation.gin", "--model", str(tmp_path), *flags]) == 2
    assert given == [expected]


def test_another_precision_is_one_line(tmp_path, capsys):
    command = ["evaluate", "smoke/evaluation.gin", "--model", str(tmp_path), "--cache", "int4"]
    assert main(command) == 2
    assert "argument --cache: invalid choice: 'int4'" in capsys.readouterr().err


@pytest.fixture
def mean_colours(monkeypatch):
    """Extractors without networks, in place of those that the flags name."""
    monkeypatch.setattr(measure_images, "open_extractors", lambda names, clip, layout: {"mean-colours": MeanColours()})


@pytest.fixture(scope="module")
def image_folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("images")
    return [str(write_images(top / name, 110, seed=seed)) for seed, name in enumerate(("ours", "real"))]


def test_two_folders_are_compared_without_a_model(image_folders, mean_colours, tmp_path, capsys):
    ours, real = image_folders
    out = tmp_path / "sets.json"
    assert main(["evaluate", "--images", ours, "--against", real, "--distances", "fd,mind", "--out", str(out)]) == 0
    content = json.loads(out.read_text())["images"]
    assert [one["count"] for one in content["sets"]] == [110, 110]
    assert content["mean-colours"].keys() == {"fd", "mind"}
    assert "mean-colours: fd " in capsys.readouterr().out
    assert 'data-path="images/mean-colours/fd/value"' in (tmp_path / "sets.html").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected a config with --model, or --images, got neither"),
        (["smoke/evaluation.gin"], "--model: expected the folder of a trained model for evaluations.scenes, got none"),
        (["--images", "x"], "--out: expected the JSON file to write, got none"),
        (
            ["smoke/evaluation.gin", "--images", "x"],
            "expected a config or --images, got both smoke/evaluation.gin and x",
        ),
        (["--images", "x", "--out", "y", "--features", "clip:z"], "--features: expected none without --against"),
        (["smoke/evaluation.gin", "--size", "8"], "--size: expected none without --images, got 8"),
        (
            ["--images", "x", "--out", "y", "--against", "z", "--distances", "fid"],
            "--distances: expected some of fd, kid",
        ),
        (["--images", "x", "--out", "y", "--count", "0"], "--count: expected at least 1 image, got 0"),
        (["--images", "no-such", "--out", "y", "--against", "z"], "no-such"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(flags, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_signs_are_read_without_a_model(tmp_path, capsys):
    sets = ["evaluations.text.captions=3", "evaluations.text.shown=2", "evaluations.text.readers=('scenes',)"]
    flags = [flag for one in sets for flag in ("--set", one)]
    assert main(["evaluate", "evaluate/text.gin", *flags, "--out", str(tmp_path / "text.json")]) == 0
    content = json.loads((tmp_path / "text.json").read_text())["text"]["scenes"]
    assert content["seen"].keys() == {"clean"} and content["held_out"]["clean"]["word_accuracy"] == 1.0
    assert "words right by scene reader: clean signs 100 %" in capsys.readouterr().out
