"""The slots of models of codes: of a transformer, whose pass draws a code of every image, and of an unCLIP of codes."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Int, UInt8
from dalle_jax.pipelines.edits.windows import hidden_cells
from dalle_jax.pipelines.request import Request
from dalle_jax.pipelines.rows.code_rows import CodeRows
from dalle_jax.pipelines.rows.denoising_slots import DenoisingSlots
from dalle_jax.pipelines.rows.slot_image import GivenRow, SlotImage
from dalle_jax.pipelines.slot_engine import SlotEngine
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.pipelines.unclip import Unclip
from dalle_jax.serve.engine.drawing_plans import DrawingPlan, PlannedRow
from dalle_jax.serve.engine.slot_runner import DecodedRows, SlotRunner
from dalle_jax.serve.engine.works import Work

GREY = 128
"""The value of pixels whose codes are not drawn yet."""


class CodeSlots(SlotRunner):
    """A model whose images are decoded from codes; the codes of given pixels are given."""

    def __init__(self, pipeline: TextToImage | Unclip, plan: Callable[[Work], DrawingPlan]) -> None:
        self._codec, self._grid = pipeline.codec, pipeline.grid
        self._encoded: tuple[UInt8[np.ndarray, "h w 3"], Int[np.ndarray, " i"]] | None = None
        super().__init__(pipeline, plan)

    def _image(self, image: SlotImage, row: PlannedRow) -> SlotImage:
        places = self._grid[0] * self._grid[1]
        given = None
        if row.hole is not None:
            keep = ~hidden_cells(row.hole.hidden, *self._grid).reshape(-1)
            given = GivenRow(self._codes_of(row.hole.window), keep)
        elif row.top is not None:
            found = self._codes_of(row.top)
            given = GivenRow(np.zeros(places, np.int32), np.arange(places) < len(found))
            given.codes[: len(found)] = found
        return image._replace(given=given, number=row.number, vector=row.vector)

    def _codes_of(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Int[np.ndarray, " i"]:
        """Encode an image; candidates that follow each other have the same one."""
        if self._encoded is None or not np.array_equal(self._encoded[0], pixels):
            codes = np.asarray(self._codec.encode_device(pixels[None])).reshape(-1).astype(np.int32)
            self._encoded = pixels.copy(), codes
        return self._encoded[1]

    def _decoded_codes(self, codes: Int[Array, "B I"], count: int, scored: bool) -> DecodedRows:
        """Start decoding the first ``count`` images, and encoding them by CLIP if they are scored."""
        pixels, ranker = self._codec.decode_first(codes.reshape(-1, *self._grid), count, self._together), None
        if scored:
            ranker = self._pipeline.ranker
        return DecodedRows(
            pixels, None if ranker is None else ranker.first_image_vectors(pixels, count, self._together)
        )


class TransformerSlots(CodeSlots):
    """The slots of a transformer. An unfinished image is grey where no code is drawn.

    A ``window`` above 1 is parallel decoding: a pass computes so many codes of an image, and keeps the final ones.
    """

    def __init__(self, pipeline: TextToImage, plan: Callable[[Work], DrawingPlan], window: int) -> None:
        self._transformer, self._window = pipeline, window
        super().__init__(pipeline, plan)

    def _new_slots(self) -> SlotEngine:
        # guided, since a request may have guidance whatever the others have
        self._slots = self._transformer.slot_engine(guided=True, window=self._window)
        return self._slots

    def _hold(self, request: Request, steps: int | None) -> int:
        del steps
        prompts, negative = self._transformer.prompts, request.negative_prompt
        replaced = None if negative is None else [prompts.read([negative])[0]]
        return self._slots.hold(prompts.read([request.prompt]), replaced)[0]

    def _length(self, steps: int | None) -> int:
        del steps
        return self._grid[0] * self._grid[1]

    def _decode(self, slots: Sequence[int], *, finished: bool, scored: bool) -> DecodedRows:
        codes = self._slots.collect(slots) if finished else self._slots.codes_so_far(slots)
        return self._decoded_codes(codes, len(slots), scored)

    def _seen(self, pixels: UInt8[np.ndarray, "H W 3"], position: int) -> UInt8[np.ndarray, "H W 3"]:
        height, width = self._grid
        hidden = (np.arange(height * width) >= position).reshape(height, width)
        scale = pixels.shape[0] // height
        return np.where(np.kron(hidden, np.ones((scale, scale), bool))[..., None], np.uint8(GREY), pixels)


class UnclipSlots(CodeSlots):
    """The slots of an unCLIP of codes. An unfinished image is the one that the last step predicts."""

    def __init__(self, pipeline: Unclip, plan: Callable[[Work], DrawingPlan]) -> None:
        self._unclip = pipeline
        super().__init__(pipeline, plan)

    def _new_slots(self) -> DenoisingSlots:
        self._slots = DenoisingSlots(CodeRows(self._unclip, self._together), self._unclip.batch)
        return self._slots

    def _hold(self, request: Request, steps: int | None) -> int:
        return self._slots.hold(str(request.prompt), steps)

    def _length(self, steps: int | None) -> int:
        return self._slots.length(steps)

    def _decode(self, slots: Sequence[int], *, finished: bool, scored: bool) -> DecodedRows:
        found = self._slots.collect(slots) if finished else self._slots.so_far(slots)
        codes = np.zeros((self._slots.slots, self._grid[0] * self._grid[1]), np.int32)
        codes[: len(slots)] = [np.asarray(one) for one in found]
        return self._decoded_codes(jnp.asarray(codes), len(slots), scored)
