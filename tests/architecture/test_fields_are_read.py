"""Every field of every config dataclass is read somewhere, and every old name leads to a present one."""

import ast
import dataclasses
import importlib

import pytest
from source_tree import ROOT, SOURCES, parsed

from dalle_jax.config.bind import ROOT as RUN
from dalle_jax.config.renamed import RENAMED
from dalle_jax.config.schema import Kind, Map, Slot, fields, kind


def reachable(root: object) -> list[type]:
    """Return the config dataclasses in the tree of a run. Raise ``TypeError`` for a type that no config can hold."""
    found: dict[type, None] = {}
    waiting = list(classes_of(kind(root, RUN)))
    while waiting:
        cls = waiting.pop()
        if cls not in found:
            found[cls] = None
            waiting += [one for field in fields(cls).values() for one in classes_of(field.kind)]
    return list(found)


def classes_of(field_kind: Kind) -> tuple[type, ...]:
    """Return the dataclasses that a field of this kind may hold."""
    item = field_kind.item if isinstance(field_kind, Map) else field_kind
    return item.classes if isinstance(item, Slot) else ()


def attributes_read() -> set[str]:
    """Return the names that are read as attributes anywhere in the package."""
    nodes = (node for path in SOURCES for node in ast.walk(parsed(path)))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


@pytest.fixture(scope="module")
def classes() -> list[type]:
    return reachable(pytest.importorskip("dalle_jax.runs").Run)


def iterated() -> set[str]:
    """Return classes whose file reads all fields at once: by ``dataclasses.fields``, ``asdict`` or ``astuple``."""
    readers = ("fields", "asdict", "astuple")
    found = set()
    for path in SOURCES:
        tree = parsed(path)
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        if "config" not in path.parts and any(ast.unparse(one.func).split(".")[-1] in readers for one in calls):
            found |= {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    return found


def test_every_field_of_every_config_dataclass_is_read(classes):
    read, whole = attributes_read(), iterated()
    names = [f"{cls.__name__}.{name}" for cls in classes for name in fields(cls)]
    assert not [one for one in names if one.split(".")[1] not in read and one.split(".")[0] not in whole]


def test_config_dataclasses_are_frozen_and_documented(classes):
    assert not [cls.__name__ for cls in classes if not cls.__dataclass_params__.frozen]
    assert not [cls.__name__ for cls in classes if not cls.__doc__ or cls.__doc__.startswith(f"{cls.__name__}(")]


def test_config_dataclasses_compare_by_value_so_that_a_saved_config_can_be_compared(classes):
    assert not [cls.__name__ for cls in classes if not cls.__dataclass_params__.eq]


def test_every_old_name_is_unknown_and_maps_to_a_present_field_or_variant(classes):
    load = importlib.import_module("dalle_jax.pipelines.load.models")
    known = {cls.__name__: cls for cls in [*classes, load.ModelFile, load.PipelineFile]}
    for old, new in RENAMED.items():
        if old.startswith("@"):
            assert old[1:] not in known, old
            assert new.now is None or new.now in known, old
        else:
            name, _, path = old.partition(".")
            assert path.split(".")[0] not in fields(known[name]), old
            assert new.now is None or new.now.split(".")[0] in fields(known[name]), old


def test_every_command_of_the_table_has_its_module():
    table = importlib.import_module("dalle_jax.commands.table")
    for command in table.COMMANDS:
        module = ROOT / (command.module.replace(".", "/") + ".py")
        assert module.exists(), f"{command.name}: {module} is missing"
        functions = {node.name for node in parsed(module).body if isinstance(node, ast.FunctionDef)}
        assert {"add_arguments", "run"} <= functions


def test_a_field_that_nothing_reads_would_be_found():
    odd = dataclasses.make_dataclass("Odd", [("a_field_that_nothing_reads", int)], frozen=True)
    assert next(iter(fields(odd))) not in attributes_read()
