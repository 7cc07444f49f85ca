"""Flags of ``evaluate`` that reach the loaded pipeline."""

import json

import numpy as np
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
    (kept,) = (tmp_path / "statistics").iterdir()
    flags = ["--distances", "fd,mind", "--out", str(tmp_path / "again.json")]
    assert main(["evaluate", "--images", ours, "--against", str(kept), *flags]) == 0
    again = json.loads((tmp_path / "again.json").read_text())["images"]
    assert again["mean-colours"] == content["mean-colours"]
    both = [str(tmp_path / name) for name in ("sets.json", "again.json")]
    assert main(["evaluate", "--compare", *both, "--out", str(tmp_path / "both.json")]) == 0
    compared = json.loads((tmp_path / "both.json").read_text())["compared"]
    assert compared["sets"]["images/mean-colours/fd"] == compared["again"]["images/mean-colours/fd"]
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
        (["--images", "x", "--out", "y", "--model", "m", "--against", "z"], "--against: expected none with --model"),
        (["--images", "x", "--out", "y", "--statistics", "s"], "--statistics: expected none without --against"),
        (["--images", "x", "--out", "y", "--inception-score", "--distances", "fd"], "--distances: expected none with"),
        (["smoke/evaluation.gin", "--inception-score"], "--inception-score: expected none without --images, got it"),
        (["smoke/evaluation.gin", "--lpips", "l"], "--lpips: expected none without --images, got l"),
        (["--compare", "a", "b"], "--out: expected the JSON file to write, got none"),
        (["--compare", "a", "--out", "y"], "--compare: expected two evaluations or more, got 1"),
        (["--images", "no.npz", "--out", "y", "--against", "z"], "no.npz"),
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


@pytest.fixture
def arrays(tmp_path):
    """Write sets of images as arrays, some of them wrong, and return their folder."""
    images = np.random.default_rng(0).integers(0, 256, (110, 8, 8, 3), np.uint8)
    sets = {"good": images, "other": images[::-1], "few": images[:5], "large": images.repeat(2, 1).repeat(2, 2)}
    sets["nan"] = np.full((110, 8, 8, 3), np.nan)
    for name, array in sets.items():
        np.savez(tmp_path / f"{name}.npz", array)
    (tmp_path / "broken").mkdir()
    for number in range(4):
        (tmp_path / "broken" / f"{number}.png").write_bytes(b"no image")
    return tmp_path


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        ("few.npz", "fd: expected at least 13 generated images, since a covariance of 12 features needs more"),
        ("large.npz", "fd: expected images of one size, got 8x8 and 16x16"),
        ("nan.npz", "nan.npz: expected images uint8 [N H W 3], got float64[110, 8, 8, 3]"),
        ("broken", "broken: expected images of which at least 90% can be read, got 4 of 4 that cannot"),
    ],
)
def test_images_that_cannot_be_compared_are_one_line(ours, message, arrays, mean_colours, capsys):
    both = ["--images", str(arrays / ours), "--against", str(arrays / "good.npz")]
    assert main(["evaluate", *both, "--out", str(arrays / "out.json")]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not (arrays / "out.json").exists()


def test_reconstructions_are_measured_with_a_tokenizer_alone(arrays, mean_colours, monkeypatch, capsys):
    class Same:
        def __init__(self, network, batch, layout):
            del network, batch, layout

        def reconstruct(self, pixels):
            return pixels // 8 * 8

    monkeypatch.setattr(measure_images, "load_tokenizer_in", lambda folder, layout: None)
    monkeypatch.setattr(measure_images, "ImageCodec", Same)
    flags = ["--model", str(arrays), "--size", "16", "--distances", "fd", "--out", str(arrays / "out.json")]
    assert main(["evaluate", "--images", str(arrays / "good.npz"), *flags]) == 0
    content = json.loads((arrays / "out.json").read_text())["images"]
    assert content["mean-colours"].keys() == {"rfd"} and 30 < content["pairs"]["psnr"]["value"] < 50
    assert content["count"] == 110 and (arrays / "out.html").exists()
    absent = ["--lpips", str(arrays / "absent")]
    assert main(["evaluate", "--images", str(arrays / "good.npz"), *flags, *absent]) == 2
    assert "lpips: expected imported weights (import lpips), got" in capsys.readouterr().err
