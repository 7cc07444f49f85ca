"""Test folders are not packages, so pytest cannot collect two test files of the same name."""

from collections import Counter

from source_tree import ROOT


def test_no_two_test_files_have_the_same_name():
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py")
    assert not [name for name, count in names.items() if count > 1]
