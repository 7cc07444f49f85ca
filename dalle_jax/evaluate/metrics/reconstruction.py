"""Quality of an image tokenizer: PSNR of its reconstructions, and whether the scene reader still finds them right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dalle_jax.arrays import Float, UInt8
from dalle_jax.evaluate.metrics.shares import Share, share_of
from dalle_jax.scenes.judge import judge

PSNR_LIMIT = 100.0
"""PSNR in dB that stands for an exact copy: its true value is infinite and would make every mean infinite."""


@dataclass(frozen=True)
class Reconstruction:
    """Mean PSNR in dB and mean squared error over ``count`` images, and reading accuracy per level.

    ``still_right`` is the share of reconstructions that the reader finds true to their captions. ``read_right`` is the
    same share of the originals; it is less than 1 only through errors of the reader itself.
    """

    psnr: float
    mse: float
    count: int
    still_right: dict[int, Share]
    read_right: dict[int, Share]

    def to_json(self) -> dict[str, object]:
        """Return ``{"psnr": 27.1, "mse": 0.002, "count": 256, "still_right": {"level_1": 0.99}, ...}``."""
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
    """Return the mean squared error of each image, for values in [0, 1]."""
    difference = (originals.astype(np.float64) - copies.astype(np.float64)) / 255.0
    return np.mean(difference**2, axis=(1, 2, 3))


def psnr(originals: UInt8[np.ndarray, "B H W 3"], copies: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, " B"]:
    """Return the PSNR of each image in dB, -10 log10(MSE) for values in [0, 1]; at most ``PSNR_LIMIT``."""
    errors = mean_squared_errors(originals, copies)
    return -10.0 * np.log10(np.maximum(errors, 10.0 ** (-PSNR_LIMIT / 10.0)))


def measure_reconstruction(
    originals: UInt8[np.ndarray, "B H W 3"],
    copies: UInt8[np.ndarray, "B H W 3"],
    captions: Sequence[str] = (),
    levels: Sequence[int] = (),
) -> Reconstruction:
    """Compare images with their reconstructions.

    ``captions`` and ``levels`` have one entry for each original. Leave both out if the images are not scenes. Raises
    ValueError if lengths differ or there are no images.
    """
    if originals.shape != copies.shape or not len(originals):
        raise ValueError(f"copies: expected the shape of originals, {originals.shape}, not empty; got {copies.shape}")
    if len(captions) != len(levels) or len(captions) not in (0, len(originals)):
        raise ValueError(
            f"captions, levels: expected {len(originals)} each, one per image, or none; "
            f"got {len(captions)}, {len(levels)}"
        )
    return Reconstruction(
        psnr=float(psnr(originals, copies).mean()),
        mse=float(mean_squared_errors(originals, copies).mean()),
        count=len(originals),
        still_right=_right_per_level(copies, captions, levels),
        read_right=_right_per_level(originals, captions, levels),
    )


def _right_per_level(images: np.ndarray, captions: Sequence[str], levels: Sequence[int]) -> dict[int, Share]:
    outcomes: dict[int, list[bool]] = {level: [] for level in sorted(set(levels))}
    for image, caption, level in zip(images, captions, levels, strict=False):
        outcomes[level].append(judge(image, caption).right)
    return {level: share_of(listed) for level, listed in outcomes.items()}
