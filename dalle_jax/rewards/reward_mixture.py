"""The weighted sum of several rewards, checked for values that training cannot use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dalle_jax.arrays import Float
from dalle_jax.config.errors import UserError
from dalle_jax.rewards.read_scenes import ReadScenes
from dalle_jax.rewards.read_signs import ReadSigns
from dalle_jax.rewards.reward import Reward, SampledGroups
from dalle_jax.rewards.score_with_clip import ScoreWithClip
from dalle_jax.rewards.spread_codes import SpreadCodes

AnyReward: TypeAlias = ReadScenes | ReadSigns | ScoreWithClip | SpreadCodes
"""The rewards that a config can choose."""


LARGEST = 1e30
"""The largest reward, beyond which advantages could overflow."""


@dataclass(frozen=True, eq=False)
class RewardMixture:
    """Rewards by name. The reward of an image is the sum of all parts, each times its weight."""

    rewards: Mapping[str, Reward]

    def parts(self, groups: SampledGroups) -> dict[str, Float[np.ndarray, "P M"]]:
        """Return every part in float64, named ``NAME`` or ``NAME/PART``.

        Raise ``UserError`` for a reward that is not finite.
        """
        found: dict[str, Float[np.ndarray, "P M"]] = {}
        for name, reward in self.rewards.items():
            for part, values in reward(groups).items():
                full = f"{name}/{part}" if part else name
                found[full] = _checked(full, np.asarray(values, np.float64), groups)
        return found

    def total(self, parts: Mapping[str, Float[np.ndarray, "P M"]]) -> Float[np.ndarray, "P M"]:
        """Return the weighted sum of the parts. Raise ``UserError`` if one is beyond ``LARGEST``."""
        weights = {
            f"{name}/{part}" if part else name: weight
            for name, reward in self.rewards.items()
            for part, weight in reward.weights.items()
        }
        found = np.sum([weights[name] * values for name, values in parts.items()], axis=0)
        if not (largest := np.abs(found).max()) <= LARGEST:
            raise UserError(
                f"rewards {', '.join(parts)}: expected a weighted sum of at most {LARGEST:g} in size, got {largest:g}; "
                "lower their weights"
            )
        return found


def _checked(name: str, values: np.ndarray, groups: SampledGroups) -> Float[np.ndarray, "P M"]:
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(
            f"reward {name}: expected finite values, got {values[row, column]} for {int(bad.sum())} of {values.size} "
            f"images, first for candidate {column} of the prompt {groups.prompts[row]!r}"
        )
    return values
