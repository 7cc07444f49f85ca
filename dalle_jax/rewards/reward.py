"""The protocols of rewards: functions of sampled images and their prompts, called on the host between steps."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from dalle_jax.arrays import Float, Int, UInt8
from dalle_jax.config.errors import UserError


@dataclass(frozen=True)
class SampledGroups:
    """M images of each of P prompts, and the codes from which they were decoded."""

    prompts: tuple[str, ...]
    images: UInt8[np.ndarray, "P M H W 3"]
    codes: Int[np.ndarray, "P M I"]


@runtime_checkable
class Reward(Protocol):
    """A reward that is loaded and ready to judge. It has one or more parts, each with a weight."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each part in the sum, by name; the name "" is that of the reward itself."""
        ...

    def __call__(self, groups: SampledGroups) -> Mapping[str, Float[np.ndarray, "P M"]]:
        """Return the value of each part for every image. Equal calls return equal values."""
        ...


@runtime_checkable
class RewardConfig(Protocol):
    """The config of a reward."""

    def open(self) -> Reward:
        """Load the reward's networks. Raise ``UserError`` if a file is missing."""
        ...


RewardFunction: TypeAlias = Callable[[UInt8[np.ndarray, "B H W 3"], Sequence[str]], ArrayLike]
"""A reward written in Python: images and the prompt of each to one number per image."""


@dataclass(frozen=True, eq=False)
class FunctionReward:
    """A reward that is a Python function. No config names one, since a config runs no code.

    Errors give its ``name``.
    """

    function: RewardFunction
    weight: float = 1.0
    name: str = "function"

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of the function's value."""
        return {"": self.weight}

    def __call__(self, groups: SampledGroups) -> Mapping[str, Float[np.ndarray, "P M"]]:
        """Call the function once, with all images in a row.

        Raise ``UserError`` if it does not return a number for each image.
        """
        prompts, candidates = groups.images.shape[:2]
        images = groups.images.reshape(-1, *groups.images.shape[2:])
        values = np.asarray(self.function(images, [one for one in groups.prompts for _ in range(candidates)]))
        if values.shape != (len(images),):
            found = f"an array of shape {list(values.shape)}" if values.ndim else repr(values.item())
            raise UserError(f"reward {self.name}: expected one number for each of {len(images)} images, got {found}")
        return {"": self._numbers(values).reshape(prompts, candidates)}

    def _numbers(self, values: np.ndarray) -> Float[np.ndarray, " B"]:
        if not np.iscomplexobj(values):
            with contextlib.suppress(TypeError, ValueError):
                return values.astype(np.float64)
        raise UserError(f"reward {self.name}: expected real numbers, got {values[0].item()!r} for the first image")


def open_reward(name: str, given: object) -> Reward:
    """Return ``given``, or the reward of a function. Raise ``UserError`` if it is something else."""
    if isinstance(given, Reward):
        return given
    if not callable(given):
        fix = "; open it first: .open()" if isinstance(given, RewardConfig) else ""
        raise UserError(f"reward {name}: expected a function of images and prompts, got {given!r}{fix}")
    return FunctionReward(given, name=name)
