"""Every command of docs/your_data.md, run as written, on forty small images."""

import contextlib
import io
import json
import re
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dalle_jax.__main__ import main
from dalle_jax.commands.demo_stages import read_stages
from dalle_jax.data.examples.held_out import HeldOut, keys_of
from dalle_jax.data.sources.array_record import ArrayRecord
from dalle_jax.data.sources.webdataset import WebDataset
from tests.commands.own_data import IMAGES, SMALL, captioned

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(one[1], one[2]) for one in BLOCK.finditer((ROOT / "docs" / "your_data.md").read_text(encoding="utf-8"))]
COMMAND = "python -m dalle_jax "
CODES = [line for line in SMALL["transformer"].splitlines() if not re.search("image_size|images.size|share", line)]
SETS = {name: text.splitlines() for name, text in SMALL.items()} | {
    "fine_tune": SMALL["transformer"].splitlines(),
    "encode": ["image_size = 16", "images.size = 16", "batch_size = 8", "crops = 2", "held_out.share = 0.45"],
    "train": CODES,
}
"""Settings that make the run of a config small, by the name of its file."""


def commands(block: str) -> list[list[str]]:
    """Return the arguments of each command of a block, without comments."""
    return [shlex.split(line, comments=True)[3:] for line in block.splitlines()]


def small(arguments: list[str], here: Path) -> list[str]:
    """Add settings for a small run before the command's own ``--set``, which take precedence."""
    config = Path(arguments[1])
    if config.suffix != ".gin":
        return arguments
    sets = [line.replace(" = ", "=", 1).format(here=here) for line in SETS[config.stem]]
    return arguments[:2] + [word for one in sets for word in ("--set", one)] + arguments[2:]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """Make a folder with my_images/, the package's configs, the page's configs, and small ones for ``demo``."""
    place = tmp_path_factory.mktemp("page")
    (place / "my_images").mkdir()
    with tarfile.open(place / "my_images" / "00000.tar", "w") as tar:
        for name, image, caption in captioned():
            for suffix, content in ((".png", image), (".txt", caption.encode())):
                member = tarfile.TarInfo(name + suffix)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    (place / "configs").symlink_to(ROOT / "configs")
    (place / "small").mkdir()
    for name, lines in SMALL.items():
        (place / "small" / f"{name}.gin").write_text(f"include 'runs/your_data/{name}.gin'\n{lines}\n")
    for _, block in BLOCKS:
        if named := re.match(r"# (\w+\.gin)", block):
            (place / named[1]).write_text(block)
    return place


def test_the_page_has_blocks_of_each_kind():
    """Without blocks, the tests below would pass."""
    kinds = [re.match(r"python -m dalle_jax|# \w+\.gin|data\.source = |--set |", block)[0] for _, block in BLOCKS]
    assert kinds.count(COMMAND.strip()) >= 6
    assert {"# encode.gin", "# train.gin", "data.source = ", "--set "} <= set(kinds)
    assert [language for language, _ in BLOCKS if language] == ["python"]
    assert [block for (language, block), kind in zip(BLOCKS, kinds, strict=True) if not kind and not language] == []


@pytest.fixture(scope="module")
def followed(workplace) -> tuple[Path, list[str], str]:
    """Run every block of the page; return the folder, the names of the commands, and their standard error."""
    done, said = [], io.StringIO()
    with contextlib.chdir(workplace), contextlib.redirect_stderr(said):
        for language, block in BLOCKS:
            if language == "python":
                exec(compile(block, "docs/your_data.md", "exec"), {})
            for arguments in commands(block) if block.startswith(COMMAND) else []:
                code = main(small(arguments, Path("small")))
                assert code == 0, f"{COMMAND}{shlex.join(arguments)}: {said.getvalue()}"
                done.append(arguments[0])
    return workplace, done, said.getvalue()


@pytest.mark.slow
def test_every_command_of_the_page_runs_as_written(followed):
    workplace, done, said = followed
    wanted = {"demo", "sample", "inspect", "text-tokenizer", "train", "evaluate", "encode"}
    assert set(done) == wanted, wanted ^ set(done)
    assert "trains" in said  # embeddings and norms only
    for made in ("mine/report.html", "look/contact_sheet.png", "images/grid.png", "images_fine_tuned/grid.png"):
        assert (workplace / "runs" / made).is_file(), made
    assert (workplace / "codes" / "training" / "manifest.json").is_file()
    assert (workplace / "runs" / "from_codes" / "model.gin").is_file()
    assert len(ArrayRecord(files=(str(workplace / "images"),)).open()) == IMAGES


@pytest.mark.slow
def test_the_pages_demo_is_a_pipeline_with_a_report_of_all_held_out_images(followed):
    mine = followed[0] / "runs" / "mine"
    metrics = json.loads((mine / "metrics.json").read_text())
    records = WebDataset(files=(str(followed[0] / "my_images" / "*.tar"),)).open()
    held_out = sum(HeldOut(share=0.45).mask(keys_of(records, np.arange(len(records)))))
    assert held_out % 8 and held_out % 6  # neither training's batches nor evaluation.among leave any out
    assert metrics["reconstruction"]["psnr"] > 0 and metrics["reconstruction"]["count"] == held_out
    assert 0 <= metrics["clip"]["retrieval_top1"] <= metrics["clip"]["retrieval_top5"] <= 1
    assert metrics["transformer"]["image_nll"] == pytest.approx(np.log(16), rel=0.2)  # hardly trained
    page = (mine / "report.html").read_text()
    assert "square on" in page and "The CLIP that ranked the samples also judges them" in page
    assert "Ticks and crosses" not in page and "Level 1" not in page  # those are of drawn scenes
    assert "my_images/*.tar" in page  # how to do it again
    assert (mine / "transformer" / "config.gin").read_text().count("WebDataset") >= 1


@pytest.mark.slow
def test_evaluate_computes_the_metrics_of_the_demo(followed):
    mine = followed[0] / "runs" / "mine"
    before, again = (json.loads((mine / name).read_text()) for name in ("metrics.json", "evaluation.json"))
    assert again["captioned"]["reconstruction"] == before["reconstruction"]
    assert again["captioned"]["transformer.image_nll"] == pytest.approx(before["transformer"]["image_nll"], rel=1e-5)


@pytest.mark.slow
def test_an_evaluation_of_captions_without_data_is_an_error(followed, tmp_path, capsys):
    file = tmp_path / "x.gin"
    file.write_text(
        "run = @EvaluateRun\nevaluations.mine = @EvaluateCaptioned\nevaluations.mine.drawing.candidates = 2\n"
        "evaluations.mine.drawing.guidance = 1.0\n"
    )
    assert main(["evaluate", str(file), "--model", str(followed[0] / "runs" / "mine")]) == 2
    assert "data: expected @OwnData, whose held-out images evaluations.mine uses, got None" in capsys.readouterr().err


@pytest.mark.parametrize("block", [block for _, block in BLOCKS if block.startswith("data.source = ")])
def test_every_source_of_the_page_is_read_as_a_config(block, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    Path("source.gin").write_text(f"include 'runs/your_data/tokenizer.gin'\n{block}")
    assert main(["config", "source.gin"]) == 0


@pytest.mark.parametrize("block", [block for _, block in BLOCKS if block.startswith("--set ")])
def test_every_setting_of_the_page_is_accepted(block, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    sets = [word for word in shlex.split(block) if word != "--set"]
    assert read_stages("configs/runs/your_data/all.gin", sets, Path("out")) != read_stages(
        "configs/runs/your_data/all.gin", [], Path("out")
    )
