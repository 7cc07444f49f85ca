"""Every file under configs/ is read: runs as the run that they are, fragments by the runs that include them."""

import os
from pathlib import Path

import pytest
from source_tree import ROOT

from dalle_jax.config.bind import load, loads
from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import Problems
from dalle_jax.config.render import render
from dalle_jax.config.sources import ConfigReader
from dalle_jax.config.syntax import Include, read

CONFIGS = ROOT / "configs"
FRAGMENTS = ("models", "data", "hardware")
FILES = sorted(CONFIGS.rglob("*.gin"))
RUNS = [path for path in FILES if path.relative_to(CONFIGS).parts[0] not in FRAGMENTS]


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def included(path: Path) -> set[Path]:
    """Return the files that a file includes."""
    problems = Problems()
    statements = list(read(path.read_text(), str(path), problems))
    problems.raise_if_any()
    places = [(path.parent / one.file, CONFIGS / one.file) for one in statements if isinstance(one, Include)]
    return {Path(os.path.normpath(next(place for place in two if place.exists()))) for two in places}


def included_by_others() -> set[Path]:
    return set().union(*(included(path) for path in FILES))


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_a_config_and_its_resolved_text_are_the_same_run(path: Path):
    runs = pytest.importorskip("dalle_jax.runs")
    try:
        run = load(path, runs.Run)
    except UserError as error:
        lacks = all("is missing;" in line or "is not chosen;" in line for line in str(error).splitlines())
        if lacks and path in included_by_others():  # what other runs of its folder share
            return
        raise
    assert loads(render(run), runs.Run) == run


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_config_opens_with_a_comment_that_describes_it(path: Path):
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_statement_of_a_config_and_of_its_includes_is_read(path: Path):
    reader = ConfigReader(Problems())
    reader.file(path)
    reader.problems.raise_if_any()


def test_every_fragment_is_included_by_some_config():
    used = included_by_others()
    unused = [name(path) for path in FILES if path not in used and path not in RUNS]
    assert not unused
