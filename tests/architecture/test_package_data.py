"""Every file of the package that is not Python is listed in setup.py, so that a wheel holds it."""

import ast
from pathlib import Path

from source_tree import PACKAGE, ROOT


def package_data() -> dict[str, list[str]]:
    """Return ``package_data`` as setup.py has it."""
    calls = [one for one in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(one, ast.Call)]
    keywords = [word for one in calls for word in one.keywords if word.arg == "package_data"]
    return ast.literal_eval(keywords[0].value)


def packaged() -> set[Path]:
    folders = {ROOT / name.replace(".", "/"): patterns for name, patterns in package_data().items()}
    return {path for folder, patterns in folders.items() for one in patterns for path in folder.glob(one)}


def test_every_non_python_file_is_package_data():
    other = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert other
    assert other == {path for path in packaged() if path.is_file()}
