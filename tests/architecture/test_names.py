"""Test files stand in folders that are no packages, so two of one name hide each other when pytest collects them."""

from collections import Counter

from source_tree import ROOT


def test_no_two_test_files_have_the_same_name():
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py")
    assert not [name for name, count in names.items() if count > 1]
