"""The reward of captioned scenes: the parts of a caption that the scene reader finds in the pixels."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dalle_jax.arrays import Float
from dalle_jax.rewards.reward import SampledGroups
from dalle_jax.scenes.grammar import parse
from dalle_jax.scenes.judge import judge_scene
from dalle_jax.scenes.perceive import perceive


@dataclass(frozen=True)
class ReadScenes:
    """``parts`` weighs the share of the caption's parts that are right, ``whole`` an image of which all are."""

    parts: float = 1.0
    whole: float = 1.0

    def open(self) -> "SceneReward":
        """Return the reward; it loads nothing."""
        return SceneReward(self)


@dataclass(frozen=True)
class SceneReward:
    """The reward of ``scenes.judge``. A prompt outside the grammar raises ``UserError``."""

    config: ReadScenes

    @property
    def weights(self) -> Mapping[str, float]:
        """The weights of "parts" and "whole"."""
        return {"parts": self.config.parts, "whole": self.config.whole}

    def __call__(self, groups: SampledGroups) -> Mapping[str, Float[np.ndarray, "P M"]]:
        """Read every image. "parts" is between 0 and 1, and "whole" is 0 or 1."""
        parts = np.zeros(groups.images.shape[:2], np.float32)
        for row, prompt in enumerate(groups.prompts):
            scene = parse(prompt)
            for column, image in enumerate(groups.images[row]):
                found = judge_scene(perceive(image), scene, prompt).parts
                parts[row, column] = sum(part.right for part in found) / len(found)
        return {"parts": parts, "whole": (parts == 1.0).astype(np.float32)}
