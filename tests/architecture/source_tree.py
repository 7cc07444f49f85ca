"""The source tree as the architecture tests read it: files, their syntax trees, the modules that they import."""

import ast
from collections.abc import Collection
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dalle_jax"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# storage stands on config, untrusted on storage, and folder_lock on storage and parallel; the last three are one
# tier, the edge, in the order in which they stand on each other
TIERS = [
    ["config", "arrays"],
    ["storage"],
    ["untrusted"],
    ["parallel", "text", "images", "scenes"],
    ["folder_lock"],
    ["layers", "losses", "diffusion", "sampling"],
    ["models", "data", "train"],
    ["pipelines", "pretrained", "plan"],
    ["evaluate", "serve"],
    ["rewards"],
    ["tasks"],
    ["runs"],
    ["commands"],
    ["__main__"],
]
TIER = {folder: number for number, folders in enumerate(TIERS) for folder in folders}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module(path: Path) -> str:
    """Return the module name of a file, such as ``dalle_jax.config.bind``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def folder(name: str) -> str:
    """Return the folder of the package that holds a module, or the name of a file at its top."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(tree: ast.Module, name: str) -> list[tuple[str, int]]:
    """Return the modules of this package that the module ``name`` imports anywhere, with their lines."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *(node.module.split(".") if node.module else [])])
            found += [(f"{base}.{alias.name}" if base == "dalle_jax" else base, node.lineno) for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found += [(one.value, node.lineno) for one in node.args if isinstance(one, ast.Constant)]
    return [(one, line) for one, line in found if one.split(".")[0] == "dalle_jax"]


def imported_modules(tree: ast.Module, name: str, modules: Collection[str]) -> set[str]:
    """Return the ``modules`` that the module ``name`` imports anywhere: in functions and for type checking too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *(node.module.split(".") if node.module else [])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= {one if one in modules else base for one in inner}
    return (found & set(modules)) - {name}
