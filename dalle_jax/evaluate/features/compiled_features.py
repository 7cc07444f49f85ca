"""Feature extractors made of a frozen network and its preprocessing, compiled for the devices of a layout.

One program resizes images, and is compiled for each size of images. The network is compiled once, for ``batch`` rows.
"""

import collections
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Float, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.parallel.layout import Layout, by_rows
from dalle_jax.parallel.row_placement import put_rows
from dalle_jax.pipelines.batching import check_batch, multiple_of
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.train.state import ModuleSpec

N = TypeVar("N", bound=nnx.Module)
BATCH = 32
"""Images in one call of a network."""
IN_FLIGHT = 2
"""Calls that are queued on the devices before the results of the first are copied to the host."""
FINGERPRINT_DIGITS = 12


@dataclass(frozen=True)
class Preparation:
    """The preprocessing of images [B H W 3] before a network: its ``name``, and the function, which is compiled."""

    name: str
    prepare: Callable[[UInt8[Array, "B H W 3"]], Array]


@dataclass(frozen=True)
class Extraction(Generic[N]):
    """A frozen network, the function of its features with their ``width``, and its preparation.

    ``probabilities`` computes those of ``classes`` from features. ``fingerprint`` identifies the weights.
    """

    network: N
    label: str
    fingerprint: str
    width: int
    preparation: Preparation
    extract: Callable[[N, Array], Float[Array, "B D"]]
    probabilities: Callable[[N, Float[Array, "B D"]], Float[Array, "B C"]] | None = None
    classes: int = 0

    @property
    def name(self) -> str:
        """The network, the fingerprint of its weights and the preparation."""
        return f"{self.label} sha256:{self.fingerprint[:FINGERPRINT_DIGITS]} {self.preparation.name}"


class CompiledFeatures(Generic[N]):
    """The ``FeatureExtractor`` of a network. Rows of a call are shared by the devices of a layout."""

    def __init__(self, found: Extraction[N], layout: Layout | None = None, batch: int = BATCH) -> None:
        """Place the network by ``layout``, which is one device by default; ``batch`` images are one call."""
        self.name, self.width = found.name, found.width
        network = CompiledNetwork(found.network, layout)
        self.layout = network.layout
        self.batch = multiple_of(network.parts, batch)
        check_batch(self.batch, network.parts)
        prepare, extract = found.preparation.prepare, found.extract
        self._prepare = self.layout.jit(lambda images: by_rows(prepare(by_rows(images))))
        self._extract = network.jit(lambda net, prepared: extract(net, by_rows(prepared)).astype(jnp.float32))

    def features(self, images: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B D"]:
        """Return the vector of each image. With several processes, each passes the same images."""
        check_images(images)
        waiting: collections.deque[Array] = collections.deque()
        done = [np.zeros((0, self.width), np.float32)]
        for start in range(0, len(images), self.batch):
            rows = filled_up(images[start : start + self.batch], self.batch)
            waiting.append(self._extract(self._prepare(put_rows(self.layout, rows))))
            if len(waiting) > IN_FLIGHT:
                done.append(np.asarray(waiting.popleft()))
        done += map(np.asarray, waiting)
        return np.concatenate(done)[: len(images)]


class CompiledClassifier(CompiledFeatures[N]):
    """A ``FeatureExtractor`` of a classifier, which gives ``ClassProbabilities`` too."""

    def __init__(self, found: Extraction[N], layout: Layout | None = None, batch: int = BATCH) -> None:
        """Place the network as ``CompiledFeatures`` does."""
        super().__init__(found, layout, batch)
        if found.probabilities is None:
            raise ValueError(f"{found.label}: expected a classifier, got a network without classes")
        self.classes = found.classes
        self._probabilities = CompiledNetwork(found.network, self.layout).jit(found.probabilities)

    def probabilities(self, images: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B C"]:
        """Return the probability of each class for each image."""
        return self.probabilities_of_features(self.features(images))

    def probabilities_of_features(self, features: Float[np.ndarray, "B D"]) -> Float[np.ndarray, "B C"]:
        """Return the probabilities of images whose ``features`` are known, at a small part of the cost."""
        found = [
            np.asarray(self._probabilities(jnp.asarray(filled_up(features[start : start + self.batch], self.batch))))
            for start in range(0, max(len(features), 1), self.batch)
        ]
        return np.concatenate(found)[: len(features)]


def filled_up(rows: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` rows: those given, then zeros."""
    if len(rows) == count:
        return rows
    return np.concatenate([rows, np.zeros((count - len(rows), *rows.shape[1:]), rows.dtype)])


def check_images(images: np.ndarray) -> None:
    """Raise UserError unless images are uint8 [B H W 3] with at least one pixel each."""
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
        raise UserError(f"images: expected uint8 [B H W 3], got {images.dtype.name}{list(images.shape)}")


def weights_fingerprint(network: nnx.Module) -> str:
    """Hash the variables of a network by name and value, so that an imported folder and its file give the same."""
    params, non_params = ModuleSpec.of(network).split(network)
    digest = hashlib.sha256()
    for name, value in sorted({**params, **non_params}.items()):
        digest.update(f"{name} {value.shape} {value.dtype}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
