"""Holes in images of a model's size: the interface of models that fill them, and the part that all of them share."""

import functools
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Unpack, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from dalle_jax.arrays import Array, Bool, Int, Key, UInt8
from dalle_jax.pipelines.buckets import CallResult, draw_in_buckets
from dalle_jax.pipelines.prompts import Prompt
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Generation, Request, RequestKeywords, RequestOptions, check_rankers
from dalle_jax.sampling.autoregressive import image_keys


@dataclass(frozen=True, kw_only=True)
class FillRequest(Request):
    """A prompt, and the windows of the model's size whose hidden pixels it describes, one for each candidate.

    ``number`` counts the windows of one image, so that each has its own noise.
    """

    windows: UInt8[np.ndarray, "M S S 3"]
    hidden: Bool[np.ndarray, "S S"]
    number: int = 0


class FillCall(NamedTuple):
    """One call of a model: prompts, a key for each of M candidates, their windows, and the hidden pixels of these."""

    prompts: list[Prompt]
    options: list[RequestOptions]
    keys: Key[Array, "P M"]
    windows: UInt8[np.ndarray, "P M S S 3"]
    hidden: Bool[np.ndarray, "P S S"]


@runtime_checkable
class HoleFiller(Protocol):
    """A pipeline that draws the hidden pixels of windows.

    ``Unclip`` and ``TextToImage`` draw codes (code_filler.py), ``PixelUnclip`` and ``GlidePipeline`` pixels
    (pixel_filler.py).
    """

    @property
    def side(self) -> int:
        """The side of a window in pixels, S."""

    @property
    def ranker(self) -> ClipRanker | None:
        """The CLIP that ranks, if there is one."""

    @property
    def batch(self) -> int:
        """The largest number of images in one call."""

    @property
    def parts(self) -> int:
        """The number of devices that share the images of a call."""

    def options(self, **given: Unpack[RequestKeywords]) -> RequestOptions:
        """Return the options of a request: those ``given``, else those recommended for the model."""
        ...

    def fill_windows(self, call: FillCall) -> UInt8[np.ndarray, "P M S S 3"]:
        """Draw whole windows from the prompts and the pixels that are not hidden, which come back about the same.

        The noise of a candidate depends on its key alone.
        """
        ...


def fill(filler: HoleFiller, requests: list[FillRequest]) -> list[Generation]:
    """Fill the windows of every request, in order; the pixels of the results that are not hidden are exact.

    A result depends on the prompt, the seed, the candidate's number and the kept pixels alone, in any batch.
    """
    check_rankers(requests, clip=filler.ranker is not None, transformer=False)
    return draw_in_buckets(requests, filler.batch, functools.partial(_fill_call, filler), filler.parts)


def _fill_call(filler: HoleFiller, requests: list[FillRequest], first: int, count: int) -> CallResult:
    """Fill ``count`` windows of each request in one call."""
    windows, hidden = _stacked(requests, first, count), np.stack([one.hidden for one in requests])
    keys = image_keys(jnp.asarray([one.options.seed for one in requests], jnp.uint32), count, first=first)
    keys = _of_window(keys, jnp.asarray([one.number for one in requests]))
    prompts, options = [one.prompt for one in requests], [one.options for one in requests]
    drawn = filler.fill_windows(FillCall(prompts, options, keys, windows, hidden))
    filled = np.stack([blend(*one) for one in zip(windows, drawn, hidden, strict=True)])
    texts = [one.text for one in requests if one.text is not None]
    if filler.ranker is None or len(texts) < len(prompts):
        return CallResult(filled, None)
    return CallResult(filled, filler.ranker.scores(jnp.asarray(filled.reshape(-1, *filled.shape[2:])), texts))


def _of_window(keys: Key[Array, "P M"], numbers: Int[Array, " P"]) -> Key[Array, "P M"]:
    """Return the keys of each image's window of that number."""
    fold = jax.vmap(lambda own, number: jax.vmap(lambda key: jax.random.fold_in(key, number))(own))
    return fold(keys, numbers)


def _stacked(requests: list[FillRequest], first: int, count: int) -> UInt8[np.ndarray, "P M S S 3"]:
    """Return the windows of the candidates; those beyond a request's own, which fill up the call, repeat its last."""
    found = []
    for one in requests:
        numbers = first - one.options.first + np.arange(count)
        found.append(one.windows[np.minimum(numbers, len(one.windows) - 1)])
    return np.stack(found)


BLEND = 1 / 32
"""The distance over which a correction fades into the hole, as a share of the window's side."""


def blend(
    kept: UInt8[np.ndarray, "M S S 3"], drawn: UInt8[np.ndarray, "M S S 3"], hidden: Bool[np.ndarray, "S S"]
) -> UInt8[np.ndarray, "M S S 3"]:
    """Return the kept pixels, and the drawn ones where ``hidden``, corrected so that no seam shows.

    The model draws the whole window, so its error is known at the kept pixels. The mean error of those nearby is
    subtracted from a hidden pixel, by less the deeper it lies in the hole (normalised convolution, Knutsson and
    Westin 1993, with the weight of the known pixels bounded from below by its value at a straight edge, 1/2).
    """
    sigma = BLEND * hidden.shape[0]
    known = (~hidden).astype(np.float32)
    error = (kept.astype(np.float32) - drawn) * known[..., None]
    weight = ndimage.gaussian_filter(known, sigma, mode="nearest")
    mean = ndimage.gaussian_filter(error, (0, sigma, sigma, 0), mode="nearest")
    corrected = drawn + mean / np.maximum(weight, 0.5)[..., None]
    return np.where(hidden[..., None], np.rint(corrected).clip(0, 255).astype(np.uint8), kept)
