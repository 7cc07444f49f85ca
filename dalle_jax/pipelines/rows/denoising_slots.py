"""Continuous batching of diffusion models: images at steps of their own, which join and leave one by one.

A slot holds the state of one image on the devices. The images of a stage advance together, in calls of a fixed number
of rows, so a slot that is empty costs nothing. An image's noise depends on its key alone, and it is computed by the
same program whatever shares the slots: it is the same to the last bit. The images are those of the pipeline's own calls
up to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp

from dalle_jax.arrays import Array, PyTree
from dalle_jax.pipelines.rows.denoise_stage import SlotRow, StageProgram
from dalle_jax.pipelines.rows.slot_image import SlotImage

MOST_STEPS = 256
"""Room for the steps of an image whose requests choose them."""
ROWS_TOGETHER = 8
"""Rows of a call on an accelerator; on a CPU it is 1, where a call of more rows takes as much longer."""


@runtime_checkable
class RowModel(Protocol):
    """A diffusion model by its stages: ``CodeRows``, ``PixelRows``, ``KarloRows``, ``GlideRows``."""

    @property
    def stages(self) -> Sequence[StageProgram[Any]]:
        """The stages that an image passes, such as a decoder and its upsamplers."""
        ...

    def lengths(self, steps: int | None) -> list[int]:
        """Return the steps of each stage; ``steps`` replaces the first, where the model has a choice."""
        ...

    def hold(self, prompt: str) -> PyTree:
        """Compute what all images of a prompt share."""
        ...

    def begin(self, held: PyTree, image: SlotImage, steps: int | None) -> SlotRow:
        """Return an image at the first step of the first stage, from its key."""
        ...

    def enter(self, stage: int, row: SlotRow, image: SlotImage) -> SlotRow:
        """Return an image that finished a stage at the first step of the next, number ``stage``."""
        ...


@dataclass(frozen=True)
class _Held:
    """A prompt, and the steps of its images' first stage."""

    prompt: PyTree
    steps: int | None


@dataclass(eq=False)
class _Slot:
    """An image in a slot: its stage, the steps that are left in it, and its state."""

    image: SlotImage
    lengths: list[int]
    stage: int
    left: int
    row: SlotRow

    @property
    def done(self) -> bool:
        """True after the last step of the last stage."""
        return not self.left and self.stage == len(self.lengths) - 1


class DenoisingSlots:
    """The slots of a diffusion model; the methods are those of ``SlotEngine``."""

    def __init__(self, model: RowModel, slots: int) -> None:
        self.slots, self._model = slots, model
        self._inside: dict[int, _Slot] = {}
        self._held: dict[int, _Held] = {}
        self._next = 0
        self._reached: Array = jnp.zeros(1, jnp.int32)

    @property
    def free_contexts(self) -> int:
        """The number of prompts that can still be held."""
        return self.slots

    def length(self, steps: int | None) -> int:
        """Return the steps of an image in all stages."""
        return sum(self._model.lengths(steps))

    def hold(self, prompt: str, steps: int | None) -> int:
        """Compute a prompt and hold it; return its number."""
        self._held[self._next] = _Held(self._model.hold(prompt), steps)
        self._next += 1
        return self._next - 1

    def release(self, context: int) -> None:
        """Forget a prompt."""
        del self._held[context]

    def insert(self, images: Sequence[SlotImage]) -> list[int]:
        """Put as many of the first ``images`` into slots as there is room for, and return their slots."""
        free = [slot for slot in range(self.slots) if slot not in self._inside][: len(images)]
        for slot, image in zip(free, images, strict=False):
            held = self._held[image.context]
            lengths, row = self._model.lengths(held.steps), self._model.begin(held.prompt, image, held.steps)
            self._inside[slot] = _Slot(image, lengths, 0, lengths[0], row)
        return free

    def advance(self, passes: int) -> list[int]:
        """Run at most ``passes`` steps, until an image is finished; return the slots of finished images."""
        while passes and self._inside and not self._finished():
            count = min(passes, *(one.left for one in self._inside.values()))
            for number, program in enumerate(self._model.stages):
                own = [one for one in self._inside.values() if one.stage == number]
                for one, row in zip(own, program.advance([one.row for one in own], count), strict=True):
                    one.row, self._reached = row, row.state.step + 0  # a copy, since the next steps take the row
            for one in self._inside.values():
                one.left -= count
                if not one.left and not one.done:
                    one.stage += 1
                    one.row, one.left = self._model.enter(one.stage, one.row, one.image), one.lengths[one.stage]
            passes -= count
        return self._finished()

    def collect(self, slots: Sequence[int]) -> list[Array]:
        """Return finished images, or their codes, on the devices, and free their slots."""
        found = self._model.stages[-1].show([self._inside[slot].row for slot in slots], finished=True)
        self.cancel(slots)
        return found

    def so_far(self, slots: Sequence[int]) -> list[Array]:
        """Return the image of each slot as its last step predicts it, at the size of its stage, or its codes."""
        found: dict[int, Array] = {}
        for number, program in enumerate(self._model.stages):
            own = [slot for slot in slots if self._inside[slot].stage == number]
            shown = program.show([self._inside[slot].row for slot in own], finished=False)
            found |= dict(zip(own, shown, strict=True))
        return [found[slot] for slot in slots]

    def position(self, slot: int) -> int:
        """Return the number of steps that the image in a slot has had, in all stages."""
        one = self._inside[slot]
        return sum(one.lengths[: one.stage + 1]) - one.left

    def started(self) -> Array:
        """Return an array that is ready once the devices have run all steps up to now."""
        return self._reached

    def cancel(self, slots: Sequence[int]) -> None:
        """Free slots whatever is in them."""
        for slot in slots:
            del self._inside[slot]

    def _finished(self) -> list[int]:
        return [slot for slot, one in self._inside.items() if one.done]
