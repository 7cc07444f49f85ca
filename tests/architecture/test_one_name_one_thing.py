"""No folder has too many files, and no name of a file or class of the package stands for two things."""

import ast
from collections import defaultdict

from source_tree import PACKAGE, SOURCES, parsed

MOST_FILES_OF_A_FOLDER = 18

SAME_FILES = {
    "encode.py": ({"commands", "pipelines"}, "the command, and the function that it calls"),
    "interpolate.py": ({"commands/edits", "pipelines/edits"}, "the command, and the functions that it calls"),
    "vary.py": ({"commands/edits", "pipelines/edits"}, "the command, and the function that it calls"),
    "llamagen.py": ({"models", "pretrained/publishers"}, "the model, and its published weights"),
    "glide.py": (
        {"models", "pipelines/imported", "pretrained/publishers"},
        "the model, its sampling, its published weights",
    ),
    "karlo.py": (
        {"pipelines/imported", "pretrained/publishers"},
        "the pipeline, and the published weights of its parts",
    ),
}
"""File names that are the same thing in several folders: the folders, and the reason."""


def folder(path) -> str:
    return str(path.parent.relative_to(PACKAGE))


def folders_by_name(names) -> dict[str, list[str]]:
    found = defaultdict(list)
    for name, path in names:
        found[name].append(folder(path))
    return {name: folders for name, folders in found.items() if len(folders) > 1}


def file_names() -> dict[str, list[str]]:
    return folders_by_name((path.name, path) for path in SOURCES if path.name != "__init__.py")


def class_names() -> dict[str, list[str]]:
    classes = [
        (node.name, path) for path in SOURCES for node in ast.walk(parsed(path)) if isinstance(node, ast.ClassDef)
    ]
    assert len(classes) > 100  # or the check would see no classes
    return folders_by_name(classes)


def different(found, same) -> dict[str, list[str]]:
    return {name: folders for name, folders in found.items() if not set(folders) <= same.get(name, (set(),))[0]}


def test_no_folder_has_many_files_at_its_top():
    counts = defaultdict(int)
    for path in SOURCES:
        counts[folder(path)] += path.name != "__init__.py"
    assert not {name: count for name, count in counts.items() if count > MOST_FILES_OF_A_FOLDER}


def test_no_file_name_stands_for_two_things():
    assert different(file_names(), SAME_FILES) == {}


def test_no_class_name_stands_for_two_things():
    assert class_names() == {}


def test_the_exceptions_are_still_needed():
    assert SAME_FILES.keys() <= file_names().keys()


def test_the_check_finds_a_duplicate_name_that_is_no_exception():
    assert different({"encode.py": ["commands", "data"]}, SAME_FILES) == {"encode.py": ["commands", "data"]}
    assert different({"encode.py": ["commands", "pipelines"]}, SAME_FILES) == {}
