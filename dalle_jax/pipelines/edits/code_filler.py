"""Holes filled by codes: the windows are encoded, the codes of cells without hidden pixels are given, others drawn."""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Int, Key, UInt8
from dalle_jax.pipelines.edits.filler import FillCall
from dalle_jax.pipelines.edits.windows import hidden_cells
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.prompts import Prompt
from dalle_jax.pipelines.request import RequestOptions
from dalle_jax.sampling.autoregressive import GivenCodes


@runtime_checkable
class CodeFiller(Protocol):
    """A pipeline that draws the codes of an image of which some are given: ``Unclip``, ``TextToImage``."""

    @property
    def grid(self) -> tuple[int, int]:
        """The grid of codes (h, w)."""

    @property
    def codec(self) -> ImageCodec:
        """The image tokenizer of the codes."""

    def fill_codes(
        self, prompts: list[Prompt], options: list[RequestOptions], keys: Key[Array, "P M"], given: GivenCodes
    ) -> Int[Array, "P M I"]:
        """Draw the codes that are not given; the noise of a candidate depends on its key alone."""
        ...


def fill_by_codes(filler: CodeFiller, call: FillCall) -> UInt8[np.ndarray, "P M S S 3"]:
    """Draw the codes of all cells in which a pixel is hidden, and decode the windows."""
    rows = call.windows.reshape(-1, *call.windows.shape[2:])
    codes = filler.codec.encode_device(rows).reshape(*call.windows.shape[:2], -1)
    keep = np.stack([~hidden_cells(one, *filler.grid).reshape(-1) for one in call.hidden])
    found = filler.fill_codes(call.prompts, call.options, call.keys, GivenCodes(codes, jnp.asarray(keep)))
    drawn = filler.codec.decode_device(found.reshape(-1, *filler.grid))
    return np.asarray(drawn).reshape(call.windows.shape)
