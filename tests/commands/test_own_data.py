"""From a folder of captioned images to a report, as in docs/your_data.md, on a tiny set."""

import json
from pathlib import Path

import numpy as np
import pytest

from dalle_jax.__main__ import main
from dalle_jax.data.examples.held_out import HeldOut, keys_of
from dalle_jax.data.sources.folder import Folder
from tests.commands.own_data import SMALL, captioned


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Create a folder of images, each next to a text file."""
    folder = tmp_path_factory.mktemp("images")
    for name, image, caption in captioned():
        (folder / f"{name}.png").write_bytes(image)
        (folder / f"{name}.txt").write_text(caption)
    return folder


@pytest.fixture(scope="module")
def configs(tmp_path_factory) -> Path:
    """Return small versions of the page's configs."""
    here = tmp_path_factory.mktemp("configs")
    for name, lines in SMALL.items():
        text = f"# small\ninclude 'runs/your_data/{name}.gin'\n{lines.format(here=here)}\n"
        (here / f"{name}.gin").write_text(text)
    return here


@pytest.fixture(scope="module")
def trained(images, configs, tmp_path_factory) -> Path:
    """Run ``demo`` on those images and return its folder."""
    out = tmp_path_factory.mktemp("own") / "mine"
    source = ["--set", "data.source=@Folder", "--set", f"data.source.path='{images}'"]
    assert main(["demo", str(configs / "all.gin"), *source, "--out", str(out)]) == 0
    return out


def test_a_folder_of_images_becomes_a_pipeline_with_a_report(trained, images, configs):
    metrics = json.loads((trained / "metrics.json").read_text())
    records = Folder(path=str(images)).open()
    held_out = sum(HeldOut(share=0.4).mask(keys_of(records, np.arange(len(records)))))
    assert held_out % 8 and held_out % 6  # neither training's batches nor evaluation.among leave any out
    assert metrics["reconstruction"]["psnr"] > 0 and metrics["reconstruction"]["count"] == held_out
    assert 0 <= metrics["clip"]["retrieval_top1"] <= metrics["clip"]["retrieval_top5"] <= 1
    assert metrics["transformer"]["image_nll"] == pytest.approx(np.log(16), rel=0.2)  # hardly trained
    page = (trained / "report.html").read_text()
    assert "square on" in page and "The CLIP that ranked the samples also judges them" in page
    assert "Ticks and crosses" not in page and "Level 1" not in page  # those are of drawn scenes
    assert str(images) in page  # how to do it again
    assert (trained / "transformer" / "config.gin").read_text().count("Folder") >= 1


def test_the_pipeline_samples_and_evaluates_to_the_same_metrics(trained, images, configs, tmp_path, capsys):
    flags = ["--set", "data.source=@Folder", "--set", f"data.source.path='{images}'"]
    out = tmp_path / "figures.json"
    command = ["evaluate", str(configs / "evaluation.gin"), *flags, "--model", str(trained), "--out", str(out)]
    assert main(command) == 0
    before, again = json.loads((trained / "metrics.json").read_text()), json.loads(out.read_text())["captioned"]
    assert again["reconstruction"] == before["reconstruction"]
    assert again["transformer.image_nll"] == pytest.approx(before["transformer"]["image_nll"], rel=1e-5)
    draw = ["sample", "--model", str(trained), "--prompt", "a red square on white", "--candidates", "2", "--keep", "1"]
    assert main([*draw, "--out", str(tmp_path / "drawn")]) == 0
    assert (tmp_path / "drawn" / "grid.png").exists()


def test_an_evaluation_of_captions_without_data_is_an_error(tmp_path, trained, capsys):
    file = tmp_path / "x.gin"
    file.write_text(
        "run = @EvaluateRun\nevaluations.mine = @EvaluateCaptioned\nevaluations.mine.drawing.candidates = 2\n"
        "evaluations.mine.drawing.guidance = 1.0\n"
    )
    assert main(["evaluate", str(file), "--model", str(trained)]) == 2
    assert "data: expected @OwnData, whose held-out images evaluations.mine uses, got None" in capsys.readouterr().err
