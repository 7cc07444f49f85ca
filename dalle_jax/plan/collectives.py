"""The collectives of a compiled program and their bytes, parsed from its optimised HLO text.

In the text, the body of a loop is one computation, and an asynchronous collective appears in several computations. Each
channel is therefore counted once and multiplied by the number of runs of the loops around it. It is an error if a
channel in the text was not counted.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all",
         "collective-broadcast")  # fmt: skip

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4,
         "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "token": 0}  # fmt: skip

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*->.*\{\s*$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)|\b(?:called|branch)_computations=\{([^}]*)\}")


@dataclass(frozen=True)
class Collective:
    """A collective over groups of ``group`` chips.

    ``bytes`` is the size of the whole array, and ``times`` the number of runs per step.
    """

    kind: str
    bytes: int | float
    group: int
    times: int

    @property
    def payload(self) -> float:
        """Return the bytes per step: the size of the whole array, once for each run of the collective."""
        return self.bytes * self.times

    @property
    def sent(self) -> float:
        """Return the bytes that each chip sends per step.

        In a ring of n chips it sends n - 1 of the array's n shares, and twice as many in an all-reduce.
        """
        share = 1.0 if self.kind == "collective-permute" else (self.group - 1) / max(self.group, 1)
        return self.payload * share * (2 if self.kind == "all-reduce" else 1)


@dataclass(frozen=True)
class Traffic:
    """The collectives of a program. ``loops`` names the loops of unknown length, which count as one run."""

    collectives: tuple[Collective, ...]
    loops: tuple[str, ...]

    def by_kind(self) -> dict[str, dict[str, int | float]]:
        """Return by kind of collective the number of operations in the text, and their runs and bytes per step."""
        table: dict[str, dict[str, int | float]] = {}
        for one in self.collectives:
            row = table.setdefault(one.kind, {"operations": 0, "runs": 0, "bytes": 0.0, "sent": 0.0})
            row["operations"] += 1
            row["runs"] += one.times
            row["bytes"] += one.payload
            row["sent"] += one.sent
        return dict(sorted(table.items()))

    @property
    def sent(self) -> float:
        """Return the bytes that each chip sends per step."""
        return math.fsum(one.sent for one in self.collectives)


@dataclass(frozen=True)
class Instruction:
    """An instruction, one line of a computation in HLO text."""

    name: str
    type: str
    op: str
    rest: str
    is_root: bool


def traffic(text: str, devices: int) -> Traffic:
    """Parse the collectives of a program. Raise ``AssertionError`` if a channel in the text was not counted."""
    computations, entry = _parse(text)
    runs, loops = _runs(computations, entry)
    found: dict[str, Collective] = {}
    for name, instructions in computations.items():
        for one in instructions:
            kind = one.op.removesuffix("-start")
            if kind in KINDS and runs[name]:
                collective = _collective(kind, one, name, runs[name], devices)
                channel = re.search(r"\bchannel_id=(\d+)", one.rest)
                key = f"channel {channel[1]}" if channel else f"{name} {one.name}"
                if key not in found or found[key].times < collective.times:
                    found[key] = collective
    counted = {key.removeprefix("channel ") for key in found if key.startswith("channel ")}
    missed = _channels(text) - counted
    assert not missed, f"channels {sorted(missed)[:20]} of collectives were not counted"
    return Traffic(tuple(found.values()), tuple(loops))


def _channels(text: str) -> set[str]:
    """Return the channels of all collectives, found by a plain search of the text."""
    pattern = rf"(?:{'|'.join(KINDS)})(?:-start)?\(.*?\bchannel_id=(\d+)"
    return {match[1] for line in text.splitlines() if (match := re.search(pattern, line))}


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
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


def _runs(computations: dict[str, list[Instruction]], entry: str) -> tuple[dict[str, int], list[str]]:
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


def _collective(kind: str, one: Instruction, computation: str, times: int, devices: int) -> Collective:
    group = _group(one.rest, devices)
    size = _size(one.type, kind, one.op.endswith("-start"))
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        return Collective("reduce-scatter", size, group, times)  # a fusion of the TPU compiler
    if kind == "reduce-scatter":
        size *= group  # the result of a reduce-scatter is one share
    return Collective(kind, size, group, times)


def _size(type_text: str, kind: str, is_start: bool) -> float:
    """Return the bytes of an operation's result.

    The result of the start of an asynchronous operation contains the operands too. They are not counted.
    """
    sizes = [math.prod(int(side) for side in sides.split(",") if side) * BYTES.get(dtype, 4)
             for dtype, sides in ARRAY.findall(type_text)]  # fmt: skip
    if is_start and kind in ("all-gather", "collective-permute") and len(sizes) > 1:
        nested = re.match(r"\(\((.*?)\), \((.*?)\)", type_text)
        return _size(nested[2], kind, False) if nested else float(sizes[1])
    return float(sum(sizes))


def _group(rest: str, devices: int) -> int:
    """Return the number of chips in a group."""
    listed = re.search(r"\breplica_groups=\[(\d+),(\d+)\]", rest)
    if listed:
        return int(listed[2])
    written = re.search(r"\breplica_groups=\{\{([\d,]*)\}", rest)
    return len(written[1].split(",")) if written and written[1] else devices
