"""The bytes that a program compiled for a TPU moves to and from its memory (HBM), counted in its optimised HLO text.

XLA's own ``bytes accessed`` also counts each copy inside the chip: a weight that is fetched ahead of its product counts
three times. Here a buffer in the chip's vector memory is free. An array in HBM counts with its tiles: of an array whose
last dimension is 64, a TPU stores and moves 128 columns.
"""

import math
import re
from dataclasses import dataclass

from dalle_jax.plan.hlo_text import BYTES, CALLED, Instruction, parse, runs_of

FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "while", "conditional", "call", "after-all")
TYPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
TILE = re.compile(r"^T\(([\d,]+)\)")
OPERAND = re.compile(r"%([\w.\-]+)")
READ_IN_PART = ("dynamic-slice", "slice", "gather")
WRITTEN_IN_PART = {"dynamic-update-slice": 1, "scatter": 2}
"""Operations that change their first operand in place, with the number of the operand that they write."""


@dataclass(frozen=True)
class HbmBytes:
    """The bytes that a program reads from HBM and writes to it."""

    read: float
    written: float


def hbm_bytes(text: str) -> HbmBytes:
    """Count the bytes of a program's optimised HLO, with loops as often as they run.

    A custom call, such as a Pallas kernel, counts as if it read its operands whole. Raises ``ValueError`` for a loop of
    unknown length.
    """
    computations, entry = parse(text)
    runs, unknown = runs_of(computations, entry)
    if unknown:
        raise ValueError(f"expected loops of known length, got {', '.join(unknown)}")
    inner = _fused(computations)
    read = written = 0.0
    for name, instructions in computations.items():
        if name in inner or not runs[name]:
            continue
        found = {one.name: one for one in instructions}
        for one in instructions:
            counted = _bytes_of(one, found, computations)
            read, written = read + counted.read * runs[name], written + counted.written * runs[name]
    return HbmBytes(read, written)


def _fused(computations: dict[str, list[Instruction]]) -> set[str]:
    """Return the names of computations inside fusions and reductions, whose values are not stored."""
    ops = ("while", "conditional", "call")
    called = (one.rest for every in computations.values() for one in every if one.op not in ops)
    return {name for rest in called for names in CALLED.findall(rest) for name in re.findall(r"[\w.\-]+", str(names))}


def _bytes_of(one: Instruction, found: dict[str, Instruction], computations: dict[str, list[Instruction]]) -> HbmBytes:
    """Return the bytes of one run of an instruction; ``found`` are the instructions of its computation by name."""
    operands = [found[name] for name in _operands(one) if name in found]
    if one.op in FREE or one.op.endswith("-done") or "ConcatBitcast" in one.rest:
        return HbmBytes(0.0, 0.0)
    if one.op.endswith("-start"):  # its type holds the operand too, after a copy's result and before a slice's
        target = _arrays(one.type)[0 if one.op == "copy-start" else 1]
        source = operands[0].type if operands else ""
        return HbmBytes(_size(target) * _in_hbm(source), _size(target) * _stored(target))
    if one.op == "fusion":
        return HbmBytes(*_fusion_bytes(one, operands, computations))
    if one.op in WRITTEN_IN_PART:
        update = operands[WRITTEN_IN_PART[one.op]].type
        return HbmBytes(_total(update) * _in_hbm(update), _total(update) * _in_hbm(one.type))
    if one.op in READ_IN_PART:
        return HbmBytes(_total(one.type) * _in_hbm(operands[0].type), _total_in_hbm(one.type))
    return HbmBytes(math.fsum(_total_in_hbm(operand.type) for operand in operands), _total_in_hbm(one.type))


def _body(fusion: Instruction, computations: dict[str, list[Instruction]]) -> list[Instruction]:
    return computations[CALLED.findall(fusion.rest)[0][0]]


def _fusion_bytes(
    one: Instruction, operands: list[Instruction], computations: dict[str, list[Instruction]]
) -> tuple[float, float]:
    """Return the bytes that a fusion reads and writes; slices count instead of the arrays that they are cut from."""
    body = _body(one, computations)
    inside = {each.name: each for each in body}
    read = 0.0
    for number, operand in enumerate(operands):
        if _in_hbm(operand.type):
            whole = _total(operand.type)
            read += min(whole, _read_of(_parameter(body, number), body, computations, whole))
    root = next(each for each in body if each.is_root)
    arrays = _arrays(one.type)
    outputs = [inside[name] for name in _operands(root)] if root.op == "tuple" else [root] * len(arrays)
    written = 0.0
    for output, array in zip(outputs, arrays, strict=True):
        if _stored(array):
            update = _update_of(output, inside)
            written += _size(array) if update is None else _total(update.type)
    return read, written


def _parameter(body: list[Instruction], number: int) -> Instruction:
    return next(each for each in body if each.op == "parameter" and int(each.rest.split(")")[0]) == number)


def _read_of(
    value: Instruction, body: list[Instruction], computations: dict[str, list[Instruction]], whole: float
) -> float:
    """Return the bytes that a fusion's body reads of a value, a parameter of ``whole`` bytes or a view of one."""
    read = 0.0
    for user in body:
        names = _operands(user)
        if value.name not in names:
            continue
        if user.op in READ_IN_PART:
            read += _total(user.type)
        elif user.op == "fusion":
            inner = _body(user, computations)
            read += _read_of(_parameter(inner, names.index(value.name)), inner, computations, whole)
        elif user.op in ("bitcast", "reshape", "copy") and not user.is_root:
            read += _read_of(user, body, computations, whole)
        elif user.op not in WRITTEN_IN_PART or names[0] != value.name:
            return whole
    return read


def _update_of(output: Instruction, inside: dict[str, Instruction]) -> Instruction | None:
    """Return the update if a fusion's output is an array that it updates in place."""
    while output.op in ("bitcast", "copy", "reshape") and _operands(output)[0] in inside:
        output = inside[_operands(output)[0]]
    number = WRITTEN_IN_PART.get(output.op)
    return None if number is None else inside[_operands(output)[number]]


def _operands(one: Instruction) -> list[str]:
    """Return the names of an instruction's operands."""
    depth, end = 1, len(one.rest)
    for place, letter in enumerate(one.rest):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            end = place
            break
    return OPERAND.findall(one.rest[:end])


def _arrays(type_text: str) -> list[re.Match[str]]:
    return list(TYPE.finditer(type_text))


def _stored(array: re.Match[str]) -> bool:
    """Return True if an array is in HBM: it is no scalar, and no memory space is named."""
    return bool(array[2]) and "S(" not in (array[4] or "")


def _in_hbm(type_text: str) -> bool:
    return any(map(_stored, _arrays(type_text)))


def _total(type_text: str) -> float:
    return math.fsum(map(_size, _arrays(type_text)))


def _total_in_hbm(type_text: str) -> float:
    return math.fsum(_size(array) for array in _arrays(type_text) if _stored(array))


def _size(array: re.Match[str]) -> float:
    """Return the bytes of an array with the padding of its first tiling."""
    sides = [int(side) for side in array[2].split(",") if side]
    order = [int(place) for place in (array[3] or "").split(",") if place]
    tile = TILE.match(array[4] or "")
    if tile:
        for place, side in zip(order, reversed([int(side) for side in tile[1].split(",")]), strict=False):
            sides[place] = -(-sides[place] // side) * side
    return float(math.prod(sides) * BYTES.get(array[1], 4))
