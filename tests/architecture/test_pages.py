"""The pages of the project name files, fields and commands that exist."""

import re
from pathlib import Path

import pytest
from source_tree import PACKAGE, ROOT

from dalle_jax.commands.table import COMMANDS

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"])
NAMED = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|gin|sh|yaml|sbatch)|(?:[\w-]+/)+)`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)[^)]*\)")
MADE = re.compile(r"runs/|my_images|codes/|images/|checkpoints/|stalls/|profile/|gs:|results/|tests/$")
"""Folders that a command makes, or that stand for the reader's own."""
IN_A_RUN = {"config.gin", "model.gin", "pipeline.gin", "karlo.gin", "glide.gin", "text.gin", "encode.gin", "train.gin"}
COMMAND = re.compile(r"(?:python -m dalle_jax|dalle-jax) ([a-z][a-z-]+)")


def exists(name: str, page: Path) -> bool:
    roots = (ROOT, PACKAGE, page.parent, ROOT / "benchmarks", ROOT / "configs", ROOT / "launch")
    return any((root / name).exists() for root in roots)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_links_of_a_page_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    files = {name for name in NAMED.findall(text) if name not in IN_A_RUN and not MADE.match(name)}
    missing = [name for name in sorted(files) if not exists(name, page)]
    missing += [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert not missing


def sources_of(name: str) -> str:
    """Return the text of a file of the package, or of all files below a folder of it."""
    path = PACKAGE / name
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return "\n".join(one.read_text(encoding="utf-8") for one in files if one.is_file())


def rows_with_files(page: Path) -> list[tuple[str, list[str], set[str]]]:
    """Return table rows that name files of the package, with these files and the last word of each identifier."""
    rows = []
    for line in page.read_text(encoding="utf-8").splitlines():
        words = re.findall(r"`([^`]+)`", line) if line.startswith("|") else []
        files = [word for word in words if re.fullmatch(r"[\w/]+(\.py|/)", word) and (PACKAGE / word).exists()]
        named = [re.fullmatch(r"(?:\w+\.)?([A-Za-z]\w*)(?:\([\w, ]*\))?", word) for word in words if word not in files]
        names = {name[1] for name in named if name}
        rows += [(line, files, names)] if files and names else []
    return rows


def test_names_in_the_tables_of_the_architecture_page_exist_in_their_files():
    rows = rows_with_files(ROOT / "docs" / "architecture.md")
    assert len(rows) > 30
    for line, files, names in rows:
        text = "\n".join(map(sources_of, files))
        assert not {name for name in names if not re.search(rf"\b{name}\b", text)}, line


def test_commands_of_the_pages_exist():
    named = {name for page in PAGES for name in COMMAND.findall(page.read_text(encoding="utf-8"))}
    assert {"demo", "sample"} <= named <= {command.name for command in COMMANDS}


def test_make_targets_of_the_pages_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {name for page in PAGES for name in re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8"))}
    assert {"demo", "test"} <= named <= set(targets)


def test_the_check_finds_a_missing_file():
    assert NAMED.findall("`train/loop.py` and `docs/`") == ["train/loop.py", "docs/"]
    assert not exists("train/no_such_file.py", ROOT / "README.md")
