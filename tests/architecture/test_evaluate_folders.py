"""Measurement does not import presentation: report imports suites, suites metrics, and metrics features and readers."""

import ast

import pytest
from source_tree import PACKAGE, imports, module, parsed

UPPER = {
    "readers": ("metrics", "suites", "report"),
    "features": ("metrics", "suites", "report"),
    "metrics": ("suites", "report"),
    "suites": ("report",),
    "report": (),
}


def wrong_imports(tree: ast.Module, name: str) -> list[str]:
    folder = name.split(".")[2]
    above = tuple(f"dalle_jax.evaluate.{upper}" for upper in UPPER[folder])
    return [f"{name}:{line} imports {one}" for one, line in imports(tree, name) if one.startswith(above)]


def test_metrics_and_suites_do_not_import_the_report():
    paths = [path for path in (PACKAGE / "evaluate").rglob("*.py") if path.parent.name != "evaluate"]
    assert {path.relative_to(PACKAGE / "evaluate").parts[0] for path in paths} == UPPER.keys()
    assert not [one for path in paths for one in wrong_imports(parsed(path), module(path))]


def test_evaluate_has_no_files_outside_its_folders():
    assert [path.name for path in (PACKAGE / "evaluate").glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("suites.evaluate_scenes", "from dalle_jax.evaluate.report.run_report import Figure"),
        ("metrics.composition", "from dalle_jax.evaluate.suites import findings"),
        ("metrics.composition", "from ..report import charts"),
    ],
)
def test_the_check_finds_an_import_that_goes_up(name: str, line: str):
    assert wrong_imports(ast.parse(line), f"dalle_jax.evaluate.{name}")


def test_the_check_allows_imports_that_go_down():
    line = "from dalle_jax.evaluate.suites.findings import Sample"
    assert not wrong_imports(ast.parse(line), "dalle_jax.evaluate.report.report_page")
