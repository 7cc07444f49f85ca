"""A file imports from its own folder and from lower tiers (docs/architecture.md)."""

import ast

import pytest
from source_tree import PACKAGE, SOURCES, TIER, folder, imports, module, parsed

NO_ROOM = {"__version__"}


def wrong_imports(tree: ast.Module, name: str) -> list[str]:
    wrong = []
    for imported, line in imports(tree, name):
        there = folder(imported)
        if there in NO_ROOM or there == folder(name):
            continue
        if TIER[there] >= TIER[folder(name)]:
            wrong.append(f"{name}:{line} imports {imported}: tier {TIER[there]} from tier {TIER[folder(name)]}")
    return wrong


def test_imports_go_to_lower_tiers():
    names = {module(path): path for path in SOURCES if module(path) != "dalle_jax"}
    wrong = [one for name, path in names.items() for one in wrong_imports(parsed(path), name)]
    assert not wrong, "\n".join(wrong)


def test_every_folder_and_file_of_the_package_has_a_tier():
    folders = {one.stem for one in PACKAGE.iterdir() if one.suffix == ".py" or any(one.glob("*.py"))} - {"__init__"}
    assert folders <= TIER.keys()


def test_init_files_are_empty_except_that_of_the_package():
    full = [str(path) for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE and path.read_text().strip()]
    assert not full


@pytest.mark.parametrize(
    "line",
    [
        "import dalle_jax.train.loop",
        "from dalle_jax.tasks import generate_codes",
        "from dalle_jax import runs",
        "from ..pipelines import load",
        "from dalle_jax.data.loader import Loader",
        "def f():\n    from dalle_jax.serve.engine import Engine",
        "import importlib\nimportlib.import_module('dalle_jax.commands.train')",
    ],
)
def test_the_check_finds_an_import_from_a_higher_or_the_same_tier(line: str):
    assert wrong_imports(ast.parse(line), "dalle_jax.models.clip")


def test_the_check_allows_imports_from_lower_tiers():
    line = "from dalle_jax.layers.linear import Linear\nfrom dalle_jax.models import vqvae\nimport dalle_jax.arrays"
    assert not wrong_imports(ast.parse(line), "dalle_jax.models.clip")
