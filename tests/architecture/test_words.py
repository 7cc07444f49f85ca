"""Signatures have types, and docstrings open with a verb or with a noun that names the thing."""

import ast
import re
from collections.abc import Iterator

from source_tree import PACKAGE, SOURCES, parsed

MOST_ANY = 60
VAGUE = {"What", "Whether", "Which", "Where", "How", "Those"}


def annotations(tree: ast.Module) -> Iterator[tuple[int, ast.expr]]:
    """Yield the line and the annotation of each parameter and each result of a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            stars = [one for one in (given.vararg, given.kwarg) if one is not None]
            arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, *stars]
            stated = [*(argument.annotation for argument in arguments), node.returns]
            yield from ((node.lineno, annotation) for annotation in stated if annotation is not None)


def names_any(annotation: ast.expr) -> bool:
    return re.search(r"\bAny\b", ast.unparse(annotation)) is not None


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of the docstrings of modules, classes, functions and attributes."""
    for node in ast.walk(tree):
        for statement in getattr(node, "body", None) if isinstance(getattr(node, "body", None), list) else []:
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, value.value


def vague(tree: ast.Module) -> list[tuple[int, str]]:
    """Return the docstrings that open with a vague word."""
    first = [(line, re.match(r"\W*(\w+)", text)) for line, text in docstrings(tree)]
    return [(line, word[1]) for line, word in first if word and word[1] in VAGUE]


def test_any_is_rare_in_signatures():
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in SOURCES
        for line, annotation in annotations(parsed(path))
        if names_any(annotation)
    ]
    assert len(found) <= MOST_ANY, f"{len(found)}: " + " ".join(found)


def test_no_docstring_opens_with_a_vague_word():
    found = [f"{path.relative_to(PACKAGE)}:{line} {word}" for path in SOURCES for line, word in vague(parsed(path))]
    assert not found, f"{len(found)}: " + "\n".join(found)


def test_the_checks_see_any_in_every_place_of_a_signature():
    text = "def f(a: Any, /, b: list[Any], *c: Any, d: 'Any | None' = None, **e: typing.Any) -> Any:\n    g: Any = 1"
    assert sum(names_any(annotation) for _, annotation in annotations(ast.parse(text))) == 6
    assert not names_any(ast.parse("x: AnyModel").body[0].annotation)


def test_the_check_sees_the_docstrings_of_modules_classes_functions_and_attributes():
    text = (
        '"""What a."""\nclass A:\n    """Those."""\n    b = 1\n    """Which b."""\n    def c(self):\n        """How."""'
    )
    assert sorted(word for _, word in vague(ast.parse(text))) == ["How", "Those", "What", "Which"]
    assert vague(ast.parse('"""Whatever a."""\ndef f():\n    """Return what it is."""')) == []
