"""Files and functions of the package stay short."""

import ast

from source_tree import SOURCES, parsed

MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 80


def test_no_file_is_long():
    long = {str(path): n for path in SOURCES if (n := len(path.read_text().splitlines())) > MOST_LINES_OF_A_FILE}
    assert not long


def test_no_function_is_long():
    functions = [
        (f"{path}:{node.lineno} {node.name}", (node.end_lineno or 0) - node.lineno + 1)
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert not [one for one in functions if one[1] > MOST_LINES_OF_A_FUNCTION]
