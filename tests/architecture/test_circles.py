"""Imports between the modules of the package form no circle, those in functions and for type checking included."""

import ast
from collections.abc import Mapping

from source_tree import SOURCES, imported_modules, module, parsed


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the modules along one circle of a graph of imports, the first one again at the end; empty without one."""
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        path.append(name)
        for imported in sorted(graph[name]):
            if found := visit(imported):
                return found
        path.pop()
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name))), [])


def test_imports_form_no_circle():
    names = {module(path): path for path in SOURCES if path.name != "__init__.py"}
    graph = {name: imported_modules(parsed(path), name, names) for name, path in names.items()}
    assert sum(map(len, graph.values())) > len(names)  # or the check would see no imports
    assert circle(graph) == []


def test_the_check_finds_a_circle():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_check_sees_imports_for_types_in_functions_and_of_submodules():
    text = "if TYPE_CHECKING:\n    from p.a import A\ndef f():\n    import p.b\nfrom p import c, d"
    assert imported_modules(ast.parse(text), "p.x", {"p.a", "p.b", "p.c", "p.x"}) == {"p.a", "p.b", "p.c"}
