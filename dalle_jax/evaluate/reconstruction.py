"""What is left of a picture after the image tokenizer: in decibels, and in whether it is still read right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dalle_jax.arrays import Float, UInt8
from dalle_jax.evaluate.shares import Share, share_of
from dalle_jax.scenes.judge import Judgement, judge

PSNR_LIMIT = 100.0
"""Decibels given to a perfect copy, whose PSNR is infinite and would swallow every mean."""


@dataclass(frozen=True)
class Reconstruction:
    """``psnr`` is the mean over pictures in dB; ``still_right`` is per level, on true pictures and their captions.

    ``read_right`` is the same share on the originals: what the reader itself loses is not the tokenizer's doing.
    """

    psnr: float
    mse: float
    count: int
    still_right: dict[int, Share]
    read_right: dict[int, Share]

    def to_json(self) -> dict[str, Any]:
        """``{"psnr": 27.1, "mse": 0.002, "count": 256, "still_right": {"level_1": 0.99}, "read_right": {...}}``."""
        return {
            "psnr": self.psnr,
            "mse": self.mse,
            "count": self.count,
            "still_right": {f"level_{level}": share.value for level, share in self.still_right.items()},
            "read_right": {f"level_{level}": share.value for level, share in self.read_right.items()},
        }


def mean_squared_errors(
    originals: UInt8[np.ndarray, "B H W 3"], copies: UInt8[np.ndarray, "B H W 3"]
) -> Float[np.ndarray, " B"]:
    """The mean squared error of each picture, for values in [0, 1]."""
    difference = (originals.astype(np.float64) - copies.astype(np.float64)) / 255.0
    return np.mean(difference**2, axis=(1, 2, 3))


def psnr(originals: UInt8[np.ndarray, "B H W 3"], copies: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, " B"]:
    """Peak signal to noise ratio of each picture in dB, -10 log10(MSE) for values in [0, 1]; at most 100."""
    errors = mean_squared_errors(originals, copies)
    return -10.0 * np.log10(np.maximum(errors, 10.0 ** (-PSNR_LIMIT / 10.0)))


def measure_reconstruction(
    originals: UInt8[np.ndarray, "B H W 3"],
    copies: UInt8[np.ndarray, "B H W 3"],
    captions: Sequence[str] = (),
    levels: Sequence[int] = (),
    judged_by: Callable[[np.ndarray, str], Judgement] = judge,
) -> Reconstruction:
    """Compares pictures with what the tokenizer made of them.

    ``captions`` and ``levels`` are true of the originals, one each; leave both out for pictures that the reader cannot
    read. Raises ValueError where lengths differ or there is no picture.
    """
    if originals.shape != copies.shape or not len(originals):
        raise ValueError(f"expected as many copies as originals, got {copies.shape} for {originals.shape}")
    if len(captions) != len(levels) or len(captions) not in (0, len(originals)):
        raise ValueError(
            f"{len(originals)} pictures need as many captions and levels, got {len(captions)}, {len(levels)}"
        )
    return Reconstruction(
        psnr=float(psnr(originals, copies).mean()),
        mse=float(mean_squared_errors(originals, copies).mean()),
        count=len(originals),
        still_right=_right_per_level(copies, captions, levels, judged_by),
        read_right=_right_per_level(originals, captions, levels, judged_by),
    )


def _right_per_level(
    pictures: np.ndarray,
    captions: Sequence[str],
    levels: Sequence[int],
    judged_by: Callable[[np.ndarray, str], Judgement],
) -> dict[int, Share]:
    outcomes: dict[int, list[bool]] = {level: [] for level in sorted(set(levels))}
    for picture, caption, level in zip(pictures, captions, levels, strict=False):
        outcomes[level].append(judged_by(picture, caption).right)
    return {level: share_of(listed) for level, listed in outcomes.items()}
