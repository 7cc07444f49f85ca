"""The reward of diversity: how much the codes of an image differ from those of its group's other images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dalle_jax.arrays import Float, Int
from dalle_jax.rewards.reward import SampledGroups


@dataclass(frozen=True)
class SpreadCodes:
    """The share of an image's codes that differ from another image's of its group, on average over the others."""

    weight: float = 1.0

    def open(self) -> "SpreadReward":
        """Return the reward; it loads nothing."""
        return SpreadReward(self)


@dataclass(frozen=True)
class SpreadReward:
    """The reward of ``code_spread``, from 0 (all images of a group are equal) to 1."""

    config: SpreadCodes

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of the spread."""
        return {"": self.config.weight}

    def __call__(self, groups: SampledGroups) -> Mapping[str, Float[np.ndarray, "P M"]]:
        """Compare each image with the others of its prompt."""
        return {"": code_spread(groups.codes)}


def code_spread(codes: Int[np.ndarray, "P M I"]) -> Float[np.ndarray, "P M"]:
    """Return the share of codes in which an image differs from another of its prompt, averaged over the others."""
    candidates = codes.shape[1]
    equal = sum((codes == np.roll(codes, shift, axis=1)).mean(axis=-1) for shift in range(1, candidates))
    return (1.0 - np.asarray(equal) / max(candidates - 1, 1)).astype(np.float32)
