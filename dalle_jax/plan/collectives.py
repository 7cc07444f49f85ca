"""The collectives of a compiled program and their bytes, parsed from its optimised HLO text.

In the text, the body of a loop is one computation, and an asynchronous collective appears in several computations. Each
channel is therefore counted once and multiplied by the number of runs of the loops around it. It is an error if a
channel in the text was not counted.
"""

import math
import re
from dataclasses import dataclass

from dalle_jax.plan.hlo_text import ARRAY, BYTES, Instruction, parse, runs_of

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all",
         "collective-broadcast")  # fmt: skip


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


def traffic(text: str, devices: int) -> Traffic:
    """Parse the collectives of a program. Raise ``AssertionError`` if a channel in the text was not counted."""
    computations, entry = parse(text)
    runs, loops = runs_of(computations, entry)
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
