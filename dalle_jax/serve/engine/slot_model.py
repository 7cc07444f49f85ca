"""The interface between the lanes of a runner and a model: its slots, and what becomes of their images."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from dalle_jax.arrays import Array, Float, UInt8
from dalle_jax.pipelines.load.pipeline import AnyPipeline
from dalle_jax.pipelines.request import Request
from dalle_jax.pipelines.rows.slot_image import SlotImage
from dalle_jax.serve.engine.drawing_plans import PlannedRow

DECODED_TOGETHER = 8
"""Images of one call of the image tokenizer on an accelerator; on a CPU it is 1."""


class DecodedRows(NamedTuple):
    """Images on the devices, in an array or one by one, and CLIP's vectors of them, None if they are not encoded."""

    pixels: Sequence[UInt8[Array, "H W 3"]] | UInt8[Array, "B H W 3"]
    vectors: Float[Array, "B E"] | None


@runtime_checkable
class ImageSlots(Protocol):
    """The slots of a model: ``SlotEngine`` and ``DenoisingSlots``."""

    slots: int

    @property
    def free_contexts(self) -> int:
        """The number of prompts that can still be held."""
        ...

    def release(self, context: int) -> None:
        """Free the place of a held prompt."""
        ...

    def insert(self, images: Sequence[SlotImage]) -> list[int]:
        """Put as many of the first images into slots as there is room for, and return their slots."""
        ...

    def advance(self, passes: int) -> list[int]:
        """Run passes until an image is finished, at most ``passes``; return the slots of finished images."""
        ...

    def position(self, slot: int) -> int:
        """Return how far the image in a slot is drawn, of the length of its drawing."""
        ...

    def started(self) -> Array:
        """Return an array that is ready once the devices have run all passes up to now."""
        ...

    def cancel(self, slots: Sequence[int]) -> None:
        """Free slots whatever is in them."""
        ...


S = TypeVar("S", bound=ImageSlots)


class SlotModel(ABC, Generic[S]):
    """A model as its lanes use it. The slots of all lanes run the same compiled programs.

    ``count`` is the number of slots of a lane, and ``together`` that of the images of a call that decodes or scores.
    """

    def __init__(self, pipeline: AnyPipeline, count: int) -> None:
        self.pipeline, self.count = pipeline, count
        shared = math.gcd(DECODED_TOGETHER, count) if pipeline.parts == 1 else count
        self.together = 1 if pipeline.layout.platform == "cpu" and pipeline.parts == 1 else shared

    @abstractmethod
    def new_slots(self, like: S | None) -> S:
        """Return empty slots of a lane, with the compiled programs of ``like`` if there are such slots already."""

    @abstractmethod
    def hold(self, slots: S, request: Request, steps: int | None) -> int:
        """Hold a request's prompt in a lane's slots, and return its number there."""

    @abstractmethod
    def length(self, steps: int | None) -> int:
        """Return the passes of an image from its first to its last."""

    @abstractmethod
    def decode(self, slots: S, places: Sequence[int], *, finished: bool, scored: bool) -> DecodedRows:
        """Start decoding images, and encoding them by CLIP if they are ``scored``; finished ones leave their slots."""

    def image(self, image: SlotImage, row: PlannedRow) -> SlotImage:
        """Return an image to insert with its given parts."""
        return image._replace(hole=row.hole, number=row.number, vector=row.vector)

    def seen(self, pixels: UInt8[np.ndarray, "H W 3"], position: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return an unfinished image as it is shown."""
        del position
        return pixels

    def vector(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, " E"]:
        """Return CLIP's vector of an image that the devices did not encode with its decoding."""
        assert self.pipeline.ranker is not None  # a job without one has no text
        return self.pipeline.ranker.image_vectors(image[None])[0]
