"""The slots of diffusion models of pixels: an image passes a decoder and its upsamplers."""

from collections.abc import Sequence

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
from dalle_jax.serve.engine.slot_model import DecodedRows, SlotModel


class PixelSlots(SlotModel[DenoisingSlots]):
    """The slots of a model of pixels. An unfinished image is the one that the last step predicts, enlarged."""

    def __init__(self, pipeline: PixelUnclip | Karlo | GlidePipeline, count: int) -> None:
        super().__init__(pipeline, count)
        self._pixels = pipeline
        self._rows = self._new_rows()

    def new_slots(self, like: DenoisingSlots | None) -> DenoisingSlots:
        """Return empty slots."""
        if like is not None and self.together > 1:  # a failed step may have lost the rows that fill up a call
            self._rows = self._new_rows()
        return DenoisingSlots(self._rows, self.count)

    def _new_rows(self) -> RowModel:
        pipeline = self._pixels
        if isinstance(pipeline, PixelUnclip):
            return PixelRows(pipeline, self.together)
        return KarloRows(pipeline, self.together) if isinstance(pipeline, Karlo) else GlideRows(pipeline, self.together)

    def hold(self, slots: DenoisingSlots, request: Request, steps: int | None) -> int:
        """Compute what all images of a prompt share."""
        return slots.hold(str(request.prompt), steps)

    def length(self, steps: int | None) -> int:
        """Return the number of steps in all stages."""
        return sum(self._rows.lengths(steps))

    def decode(self, slots: DenoisingSlots, places: Sequence[int], *, finished: bool, scored: bool) -> DecodedRows:
        """Return the images of slots, which are not scored on the devices."""
        del scored
        return DecodedRows(slots.collect(places) if finished else slots.so_far(places), None)

    def seen(self, pixels: UInt8[np.ndarray, "h w 3"], position: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return an image at its full size."""
        del position
        return resize(pixels, self._pixels.side, self._pixels.side)
