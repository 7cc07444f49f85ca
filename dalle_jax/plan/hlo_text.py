"""The text of a compiled program (HLO): its computations, and how often each one runs."""

import re
from collections import defaultdict
from dataclasses import dataclass

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4,
         "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "token": 0}  # fmt: skip

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*->.*\{\s*$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)|\b(?:called|branch)_computations=\{([^}]*)\}")


@dataclass(frozen=True)
class Instruction:
    """An instruction, one line of a computation in HLO text."""

    name: str
    type: str
    op: str
    rest: str
    is_root: bool


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Return the instructions of each computation, and the name of the computation that the program starts with."""
    computations: dict[str, list[Instruction]] = {}
    current: list[Instruction] | None = None
    entry = ""
    for line in text.splitlines():
        opened = COMPUTATION.match(line)
        if opened:
            current = computations.setdefault(opened[2], [])
            entry = opened[2] if opened[1] else entry
        elif line.rstrip() == "}":  # only a bare brace ends a computation: layouts and attributes have braces too
            current = None
        elif current is not None and (found := INSTRUCTION.match(line)):
            current.append(Instruction(found[2], found[3], found[4], found[5], bool(found[1])))
    return computations, entry


def runs_of(computations: dict[str, list[Instruction]], entry: str) -> tuple[dict[str, int], list[str]]:
    """Return the number of runs of each computation, and the loops of unknown length."""
    runs: dict[str, int] = defaultdict(int)
    unknown: list[str] = []

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for one in computations.get(name, ()):
            if one.op == "while":
                body, test = _attribute(one, "body"), _attribute(one, "condition")
                length = _length(one, computations, test)
                if length is None:
                    unknown.append(body)
                visit(body, times * (1 if length is None else length))
                continue
            if one.op in ("async-done", "async-update"):  # async-start has called the computation already
                continue
            called = (name for names in CALLED.findall(one.rest) for name in re.findall(r"[\w.\-]+", " ".join(names)))
            for callee in called:
                if callee in computations:
                    visit(callee, times)

    visit(entry, 1)
    return runs, unknown


def _attribute(one: Instruction, name: str) -> str:
    found = re.search(rf"\b{name}=%?([\w.\-]+)", one.rest)
    return found[1] if found else ""


def _length(loop: Instruction, computations: dict[str, list[Instruction]], test: str) -> int | None:
    """Return the number of runs of a loop: the compiler's trip count, or the bound of the loop's counter, else None."""
    known = re.search(r"known_trip_count[^\d]*(\d+)", loop.rest)
    if known:
        return int(known[1])
    instructions = computations.get(test, [])
    constants = {one.name: int(one.rest.split(")")[0]) for one in instructions
                 if one.op == "constant" and re.fullmatch(r"[su]32\[\]\S*", one.type)}  # fmt: skip
    root = next((one for one in instructions if one.is_root), None)
    if root is None:
        return None
    compared = [value for name, value in constants.items() if re.search(rf"%?{re.escape(name)}\b", root.rest)]
    if len(compared) == 1:
        return compared[0]
    return next(iter(constants.values())) if len(constants) == 1 else None
