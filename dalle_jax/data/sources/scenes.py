"""A data source of captioned scenes, rendered on access and deterministic for a config."""

import hashlib
from bisect import bisect_right
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Literal, TypeAlias

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.data.source import Example
from dalle_jax.scenes.grammar import captions, sample_scene
from dalle_jax.scenes.rendering import render
from dalle_jax.scenes.scene import LEVELS, Scene

VERSION = 1
"""Increase this whenever the same config gives different images or captions."""
SplitName: TypeAlias = Literal["train", "validation", "held_out", "prompted", "unnamed"]
_SPLITS: tuple[SplitName, ...] = ("train", "validation", "held_out", "prompted", "unnamed")


@dataclass(frozen=True)
class Scenes:
    """``count`` images of ``size`` pixels a side.

    ``weights`` are the shares of scenes of each of ``levels``, by default equal.

    The splits "train" and "validation" have the same combinations of attributes, in different images. "held_out" has
    the combinations that are held out of training. "prompted" and "unnamed" are its two parts (scenes/split.py).
    """

    size: int
    levels: tuple[int, ...]
    count: int
    seed: int
    split: SplitName
    weights: tuple[float, ...] = ()

    def open(self) -> "ScenesSource":
        """Open the source. Raises one UserError that names each wrong field."""
        problems = []
        if not 16 <= self.size <= 1024:
            problems.append(f"size: expected 16 to 1024 pixels, got {self.size}")
        if not self.levels or not set(self.levels) <= set(LEVELS):
            problems.append(f"levels: expected some of {LEVELS}, got {self.levels}")
        if self.count < 1:
            problems.append(f"count: expected at least 1, got {self.count}")
        if self.seed < 0:
            problems.append(f"seed: expected at least 0, got {self.seed}")
        if self.weights and (len(self.weights) != len(self.levels) or min(self.weights) <= 0):
            problems.append(f"weights: expected {len(self.levels)} positive numbers, one per level, got {self.weights}")
        if problems:
            raise UserError("scenes: " + "; ".join(problems))
        return ScenesSource(self)


class ScenesSource:
    """A ``Source`` of scenes. Example i is sampled with random numbers seeded by (seed, split, i)."""

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
        """Return the captions of example ``index`` without rendering its image."""
        return captions(self._scene(index)[0])

    def _scene(self, index: int) -> tuple[Scene, np.random.Generator]:
        """Return the scene of an example, and the random generator that drew the scene and will render it."""
        config = self._config
        if not 0 <= index < config.count:
            raise IndexError(index)
        rng = np.random.default_rng((config.seed, _SPLITS.index(config.split), index))
        level = config.levels[bisect_right(self._bounds, rng.random())]
        return sample_scene(level, rng, config.split), rng

    def fingerprint(self) -> str:
        """Return a digest of the config and of ``VERSION``."""
        text = repr((VERSION, sorted(asdict(self._config).items())))
        return "scenes-" + hashlib.sha256(text.encode()).hexdigest()[:16]
