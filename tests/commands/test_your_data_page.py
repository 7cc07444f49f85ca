"""Every command of docs/your_data.md, run as written, on forty small images."""

import io
import re
import shlex
import tarfile
from pathlib import Path

import pytest

from dalle_jax.__main__ import main
from dalle_jax.commands.demo_stages import read_stages
from dalle_jax.data.sources.array_record import ArrayRecord
from tests.commands.own_data import IMAGES, SMALL, captioned

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(one[1], one[2]) for one in BLOCK.finditer((ROOT / "docs" / "your_data.md").read_text(encoding="utf-8"))]
COMMAND = "python -m dalle_jax "
CODES = [line for line in SMALL["transformer"].splitlines() if not re.search("image_size|images.size|share", line)]
SETS = {name: text.splitlines() for name, text in SMALL.items()} | {
    "fine_tune": SMALL["transformer"].splitlines(),
    "encode": ["image_size = 16", "images.size = 16", "batch_size = 8", "crops = 2", "held_out.share = 0.4"],
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


def test_every_command_of_the_page_runs_as_written(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    done = []
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "docs/your_data.md", "exec"), {})
            assert len(ArrayRecord(files=("images",)).open()) == IMAGES
        for arguments in commands(block) if block.startswith(COMMAND) else []:
            code = main(small(arguments, Path("small")))
            assert code == 0, f"{COMMAND}{shlex.join(arguments)}: {capsys.readouterr().err}"
            done.append(arguments[0])
    wanted = {"demo", "sample", "inspect", "text-tokenizer", "train", "evaluate", "encode"}
    assert set(done) == wanted, wanted ^ set(done)
    assert "trains" in capsys.readouterr().err  # embeddings and norms only
    for made in ("mine/report.html", "look/contact_sheet.png", "images/grid.png", "images_fine_tuned/grid.png"):
        assert (workplace / "runs" / made).is_file(), made
    assert (workplace / "codes" / "training" / "manifest.json").is_file()
    assert (workplace / "runs" / "from_codes" / "model.gin").is_file()


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
