"""Captioned scenes as a data source: drawn as they are asked for, the same ones for the same configuration."""

import hashlib
from bisect import bisect_right
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Literal

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.data.source import Example
from dalle_jax.scenes.grammar import captions, sample_scene
from dalle_jax.scenes.rendering import render
from dalle_jax.scenes.scene import LEVELS, Scene

VERSION = 1
"""Goes up whenever the same configuration would give other images or captions."""
_SPLITS = ("train", "validation", "held_out")


@dataclass(frozen=True)
class Scenes:
    """``count`` images of ``size`` pixels a side with levels mixed by ``weights`` (none given: alike).

    "train" and "validation" show the same combinations in different images; "held_out" shows the others.
    """

    size: int
    levels: tuple[int, ...]
    count: int
    seed: int
    split: Literal["train", "validation", "held_out"]
    weights: tuple[float, ...] = ()

    def open(self) -> "ScenesSource":
        """The source. Raises ``UserError`` naming every field that makes no sense."""
        problems = []
        if not 16 <= self.size <= 1024:
            problems.append(f"size must be 16 to 1024 pixels, got {self.size}")
        if not self.levels or not set(self.levels) <= set(LEVELS):
            problems.append(f"levels must be some of {LEVELS}, got {self.levels}")
        if self.count < 1:
            problems.append(f"count must be at least 1, got {self.count}")
        if self.seed < 0:
            problems.append(f"seed must not be negative, got {self.seed}")
        if self.weights and (len(self.weights) != len(self.levels) or min(self.weights) <= 0):
            problems.append(f"weights must be {len(self.levels)} positive numbers, one per level, got {self.weights}")
        if problems:
            raise UserError("scenes: " + "; ".join(problems))
        return ScenesSource(self)


class ScenesSource:
    """A ``Source`` of scenes; example i is drawn from random numbers seeded by (seed, split, i)."""

    def __init__(self, config: Scenes):
        self._config = config
        weights = config.weights or (1.0,) * len(config.levels)
        self._bounds = [bound / sum(weights) for bound in accumulate(weights)][:-1]

    def __len__(self) -> int:
        return self._config.count

    def __getitem__(self, index: int) -> Example:
        config = self._config
        scene, rng = self._scene(index)
        image = render(scene, config.size, rng)
        return Example(key=f"{config.split}/{index:08d}", image=image, captions=captions(scene))

    def captions(self, index: int) -> list[str]:
        """The captions of example ``index``, which is not drawn for it."""
        return captions(self._scene(index)[0])

    def _scene(self, index: int) -> tuple[Scene, np.random.Generator]:
        """A scene, and the random numbers that its drawing goes on with."""
        config = self._config
        if not 0 <= index < config.count:
            raise IndexError(index)
        rng = np.random.default_rng((config.seed, _SPLITS.index(config.split), index))
        level = config.levels[bisect_right(self._bounds, rng.random())]
        return sample_scene(level, rng, config.split), rng

    def fingerprint(self) -> str:
        """A digest of the configuration and of the version of the drawing."""
        text = repr((VERSION, sorted(asdict(self._config).items())))
        return "scenes-" + hashlib.sha256(text.encode()).hexdigest()[:16]
