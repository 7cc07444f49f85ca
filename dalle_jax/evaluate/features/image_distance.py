"""LPIPS as an ``ImageDistance``, for metrics that compare pairs of images."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.features.compiled_features import (
    BATCH,
    FINGERPRINT_DIGITS,
    check_images,
    filled_up,
    weights_fingerprint,
)
from dalle_jax.evaluate.features.vision_features import read_vision
from dalle_jax.models.lpips import LEAST_SIDE, Lpips, LpipsConfig
from dalle_jax.parallel.layout import Layout, by_rows
from dalle_jax.pipelines.batching import check_batch, multiple_of
from dalle_jax.pipelines.compiled_network import CompiledNetwork


class LpipsDistance:
    """The LPIPS distance of pairs of images, which are compared at their own size; each size is compiled once."""

    def __init__(self, network: Lpips, layout: Layout | None = None, batch: int = BATCH) -> None:
        """Place the network by ``layout``, which is one device by default; ``batch`` pairs are one call."""
        self.backbone = network.config.backbone
        self.name = f"lpips-{self.backbone} sha256:{weights_fingerprint(network)[:FINGERPRINT_DIGITS]} unresized"
        compiled = CompiledNetwork(network, layout)
        self.batch = multiple_of(compiled.parts, batch)
        check_batch(self.batch, compiled.parts)
        self._distance = compiled.jit(_distance)

    def distance(
        self, one: UInt8[np.ndarray, "B H W 3"], other: UInt8[np.ndarray, "B H W 3"]
    ) -> Float[np.ndarray, " B"]:
        """Return the distance of each pair. Raises UserError for images of two sizes, or smaller than the network's."""
        check_pairs(one, other, LEAST_SIDE[self.backbone], self.name)
        found = [np.zeros(0, np.float32)]
        for start in range(0, len(one), self.batch):
            rows = slice(start, start + self.batch)
            first, second = (jnp.asarray(filled_up(images[rows], self.batch)) for images in (one, other))
            found.append(np.asarray(self._distance(first, second)))
        return np.concatenate(found)[: len(one)]


def check_pairs(one: np.ndarray, other: np.ndarray, least: int, name: str) -> None:
    """Raise UserError unless images are pairs of one size, with ``least`` pixels a side or more for the network."""
    check_images(one)
    check_images(other)
    if one.shape != other.shape:
        raise UserError(f"images: expected pairs of one size, got {list(one.shape)} and {list(other.shape)}")
    if min(one.shape[1:3]) < least:
        sides = f"{one.shape[2]} x {one.shape[1]}"
        raise UserError(f"images: expected at least {least} px a side for {name}, got {sides} px")


def _distance(network: Lpips, one: UInt8[Array, "B H W 3"], other: UInt8[Array, "B H W 3"]) -> Float[Array, " B"]:
    first, second = (by_rows(images).astype(jnp.float32) / 127.5 - 1 for images in (one, other))
    return network(first, second)


def open_lpips(source: Path, layout: Layout | None = None, batch: int = BATCH) -> LpipsDistance:
    """Load LPIPS from an imported folder, a state dict, or a folder with torchvision's file and LPIPS's own.

    Raises UserError for a path that does not exist, or that holds no LPIPS.
    """
    if not source.exists():
        raise UserError(f"lpips: expected imported weights (import lpips), got {source}, which does not exist")
    return LpipsDistance(read_vision("lpips", source, (LpipsConfig,)), layout, batch)
