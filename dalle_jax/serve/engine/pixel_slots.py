"""The slots of diffusion models of pixels: an image passes a decoder and its upsamplers."""

from collections.abc import Callable, Sequence

import numpy as np

from dalle_jax.arrays import UInt8
from dalle_jax.images.pixels import resize
from dalle_jax.pipelines.imported.glide import GlidePipeline
from dalle_jax.pipelines.imported.karlo import Karlo
from dalle_jax.pipelines.pixel_unclip import PixelUnclip
from dalle_jax.pipelines.request import Request
from dalle_jax.pipelines.rows.denoising_slots import DenoisingSlots, RowModel
from dalle_jax.pipelines.rows.glide_rows import GlideRows
from dalle_jax.pipelines.rows.karlo_rows import KarloRows
from dalle_jax.pipelines.rows.pixel_rows import PixelRows
from dalle_jax.serve.engine.drawing_plans import DrawingPlan
from dalle_jax.serve.engine.slot_runner import DecodedRows, SlotRunner
from dalle_jax.serve.engine.works import Work


class PixelSlots(SlotRunner):
    """The slots of a model of pixels. An unfinished image is the one that the last step predicts, enlarged."""

    def __init__(self, pipeline: PixelUnclip | Karlo | GlidePipeline, plan: Callable[[Work], DrawingPlan]) -> None:
        self._pixels = pipeline
        super().__init__(pipeline, plan)

    def _new_slots(self) -> DenoisingSlots:
        self._slots = DenoisingSlots(self._rows(), self._pixels.batch)
        return self._slots

    def _rows(self) -> RowModel:
        pipeline = self._pixels
        if isinstance(pipeline, PixelUnclip):
            return PixelRows(pipeline, self._together)
        return (
            KarloRows(pipeline, self._together) if isinstance(pipeline, Karlo) else GlideRows(pipeline, self._together)
        )

    def _hold(self, request: Request, steps: int | None) -> int:
        return self._slots.hold(str(request.prompt), steps)

    def _length(self, steps: int | None) -> int:
        return self._slots.length(steps)

    def _decode(self, slots: Sequence[int], *, finished: bool, scored: bool) -> DecodedRows:
        del scored
        return DecodedRows(self._slots.collect(slots) if finished else self._slots.so_far(slots), None)

    def _seen(self, pixels: UInt8[np.ndarray, "h w 3"], position: int) -> UInt8[np.ndarray, "H W 3"]:
        del position
        return resize(pixels, self._pixels.side, self._pixels.side)
