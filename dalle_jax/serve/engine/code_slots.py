"""The slots of models of codes: of a transformer, whose pass draws a code of every image, and of an unCLIP of codes."""

from collections.abc import Sequence

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
from dalle_jax.serve.engine.drawing_plans import PlannedRow
from dalle_jax.serve.engine.slot_model import DecodedRows, S, SlotModel

GREY = 128
"""The value of pixels whose codes are not drawn yet."""


class CodeSlots(SlotModel[S]):
    """A model whose images are decoded from codes; the codes of given pixels are given."""

    def __init__(self, pipeline: TextToImage | Unclip, count: int) -> None:
        super().__init__(pipeline, count)
        self._codec, self._grid = pipeline.codec, pipeline.grid
        self._encoded: tuple[UInt8[np.ndarray, "h w 3"], Int[np.ndarray, " i"]] | None = None

    def image(self, image: SlotImage, row: PlannedRow) -> SlotImage:
        """Return an image to insert with its given codes and vector."""
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
        kept = self._encoded  # other lanes may replace it
        if kept is None or not np.array_equal(kept[0], pixels):
            codes = np.asarray(self._codec.encode_device(pixels[None])).reshape(-1).astype(np.int32)
            self._encoded = kept = pixels.copy(), codes
        return kept[1]

    def _decoded_codes(self, codes: Int[Array, "B I"], count: int, scored: bool) -> DecodedRows:
        """Start decoding the first ``count`` images, and encoding them by CLIP if they are scored."""
        pixels = self._codec.decode_first(codes.reshape(-1, *self._grid), count, self.together)
        ranker = self.pipeline.ranker if scored else None
        return DecodedRows(pixels, None if ranker is None else ranker.first_image_vectors(pixels, count, self.together))


class TransformerSlots(CodeSlots[SlotEngine]):
    """The slots of a transformer. An unfinished image is grey where no code is drawn.

    A ``window`` above 1 is parallel decoding: a pass computes so many codes of an image, and keeps the final ones.
    """

    def __init__(self, pipeline: TextToImage, count: int, window: int) -> None:
        super().__init__(pipeline, count)
        self._transformer, self._window = pipeline, window

    def new_slots(self, like: SlotEngine | None) -> SlotEngine:
        """Return empty slots. They are guided, since a request may have guidance whatever the others have."""
        if like is not None:
            return like.another()
        return self._transformer.slot_engine(guided=True, window=self._window, slots=self.count)

    def hold(self, slots: SlotEngine, request: Request, steps: int | None) -> int:
        """Compute the prompt, and the negative one."""
        del steps
        prompts, negative = self._transformer.prompts, request.negative_prompt
        replaced = None if negative is None else [prompts.read([negative])[0]]
        return slots.hold(prompts.read([request.prompt]), replaced)[0]

    def length(self, steps: int | None) -> int:
        """Return the number of codes."""
        del steps
        return self._grid[0] * self._grid[1]

    def decode(self, slots: SlotEngine, places: Sequence[int], *, finished: bool, scored: bool) -> DecodedRows:
        """Start decoding images of slots, and encoding them by CLIP if they are ``scored``."""
        codes = slots.collect(places) if finished else slots.codes_so_far(places)
        return self._decoded_codes(codes, len(places), scored)

    def seen(self, pixels: UInt8[np.ndarray, "H W 3"], position: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return an image that is grey where no code is drawn."""
        height, width = self._grid
        hidden = (np.arange(height * width) >= position).reshape(height, width)
        scale = pixels.shape[0] // height
        return np.where(np.kron(hidden, np.ones((scale, scale), bool))[..., None], np.uint8(GREY), pixels)


class UnclipSlots(CodeSlots[DenoisingSlots]):
    """The slots of an unCLIP of codes. An unfinished image is the one that the last step predicts."""

    def __init__(self, pipeline: Unclip, count: int) -> None:
        super().__init__(pipeline, count)
        self._unclip = pipeline
        self._rows = CodeRows(pipeline, self.together)

    def new_slots(self, like: DenoisingSlots | None) -> DenoisingSlots:
        """Return empty slots."""
        if like is not None and self.together > 1:  # a failed step may have lost the rows that fill up a call
            self._rows = CodeRows(self._unclip, self.together)
        return DenoisingSlots(self._rows, self.count)

    def hold(self, slots: DenoisingSlots, request: Request, steps: int | None) -> int:
        """Compute the text that the prior reads."""
        return slots.hold(str(request.prompt), steps)

    def length(self, steps: int | None) -> int:
        """Return the number of steps."""
        return sum(self._rows.lengths(steps))

    def decode(self, slots: DenoisingSlots, places: Sequence[int], *, finished: bool, scored: bool) -> DecodedRows:
        """Start decoding images of slots, and encoding them by CLIP if they are ``scored``."""
        found = slots.collect(places) if finished else slots.so_far(places)
        codes = np.zeros((slots.slots, self._grid[0] * self._grid[1]), np.int32)
        codes[: len(places)] = [np.asarray(one) for one in found]
        return self._decoded_codes(jnp.asarray(codes), len(places), scored)
