"""A stage of a diffusion model, such as its decoder or an upsampler, that denoises rows at steps of their own.

R rows of a call
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Int, PyTree
from dalle_jax.diffusion.parameterization import Denoiser, Parameterization
from dalle_jax.diffusion.samplers.row_steps import RowState, StepTable, advance_rows
from dalle_jax.parallel.layout import by_rows
from dalle_jax.pipelines.compiled_network import CompiledNetwork

N = TypeVar("N")


class SlotRow(NamedTuple):
    """One image in a stage, or R of them: its state, and the conditions of the network."""

    state: RowState
    condition: PyTree


class _Moving(NamedTuple):
    """The arrays of rows that a step replaces."""

    x: Array
    estimates: Array
    step: Array


class _Fixed(NamedTuple):
    """The arrays of rows that stay, some of which rows of one prompt share."""

    keys: Array
    table: StepTable
    condition: PyTree


def _parts(row: SlotRow) -> tuple[_Moving, _Fixed]:
    x, estimates, keys, table, step = row.state
    return _Moving(x, estimates, step), _Fixed(keys, table, row.condition)


def _row(moving: _Moving, fixed: _Fixed) -> SlotRow:
    return SlotRow(RowState(moving.x, moving.estimates, fixed.keys, fixed.table, moving.step), fixed.condition)


@dataclass(frozen=True)
class DenoiseStage(Generic[N]):
    """The functions of a stage.

    - ``denoiser``: the network with the conditions of rows.
    - ``form``: the network's prediction.
    - ``draws``: the sampler draws new noise in its steps.
    - ``show``: uint8 images, or codes, of rows: finished ones, or as the last step predicts them.
    """

    denoiser: Callable[[N, PyTree], Denoiser]
    form: Parameterization
    draws: bool
    show: Callable[[N, SlotRow, bool], Array]


class StageProgram(Generic[N]):
    """The compiled programs of a stage. A call has ``together`` rows, which are filled up with rows that are not read.

    An image is computed by the same program whatever is beside it.
    """

    def __init__(self, network: CompiledNetwork[N], stage: DenoiseStage[N], together: int) -> None:
        shardings = None if network.layout.mesh.size == 1 else network.layout.replicated
        self._advance = network.jit_update(partial(_advance, stage=stage), shardings)
        self._show = network.jit(partial(_show, stage=stage), static_argnames=("finished",))
        self._together, self._fill = together, list[_Moving]()

    def advance(self, rows: Sequence[SlotRow], passes: int) -> list[SlotRow]:
        """Run ``passes`` steps of all rows, in calls of ``together``; x of the given rows can no longer be used."""
        found: list[SlotRow] = []
        for start in range(0, len(rows), self._together):
            moving, fixed = map(list, zip(*map(_parts, rows[start : start + self._together]), strict=True))
            count, more = len(moving), self._together - len(moving)
            while len(self._fill) < more:
                self._fill.append(_Moving(*(leaf.copy() for leaf in moving[0])))
            every = (*moving, *self._fill[:more]), (*fixed, *fixed[:1] * more)
            moved = self._advance(*every, jnp.int32(passes))
            found += map(_row, moved[:count], fixed)
            self._fill[:more] = moved[count:]
        return found

    def image(self, row: SlotRow) -> Array:
        """Return one finished image [1 …] on the devices."""
        return self.show([row], finished=True)[0][None]

    def show(self, rows: Sequence[SlotRow], *, finished: bool) -> list[Array]:
        """Return the image or the codes of each row, on the devices."""
        found: list[Array] = []
        for start in range(0, len(rows), self._together):
            own = tuple(rows[start : start + self._together])
            filled = own + own[-1:] * (self._together - len(own))
            found += self._show(filled, finished=finished)[: len(own)]
        return found


def _joined(rows: tuple[SlotRow, ...]) -> SlotRow:
    """Return the rows of a call as one batch."""
    joined: SlotRow = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *rows)
    return joined._replace(state=joined.state._replace(x=by_rows(joined.state.x)))


def _advance(
    network: N,
    moving: tuple[_Moving, ...],
    fixed: tuple[_Fixed, ...],
    passes: Int[Array, ""],
    *,
    stage: DenoiseStage[N],
) -> tuple[_Moving, ...]:
    """Run steps of rows, each at its own."""
    joined = _joined(tuple(map(_row, moving, fixed)))
    denoise = stage.denoiser(network, joined.condition)

    def one_pass(_: Array, state: RowState) -> RowState:
        return advance_rows(denoise, state, stage.form, draws=stage.draws)

    moved, _ = _parts(joined._replace(state=jax.lax.fori_loop(0, passes, one_pass, joined.state)))
    return tuple(_Moving(*(leaf[row : row + 1] for leaf in moved)) for row in range(len(moving)))


def _show(network: N, rows: tuple[SlotRow, ...], *, stage: DenoiseStage[N], finished: bool) -> list[Array]:
    return list(stage.show(network, _joined(rows), finished))
