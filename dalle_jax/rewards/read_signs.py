"""The reward of signs: the letters of the quoted word of a prompt that the scene reader reads on the sign."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dalle_jax.arrays import Float
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.text_accuracy import edit_distance
from dalle_jax.evaluate.readers.text_reader import SceneTextReader, TextReader
from dalle_jax.rewards.reward import SampledGroups

_QUOTED = re.compile(r'["“]([^"“”]+)["”]')


@dataclass(frozen=True)
class ReadSigns:
    """``letters`` weighs 1 less the share of the longer word that is edited, ``whole`` a word without an error."""

    letters: float = 1.0
    whole: float = 1.0

    def open(self) -> "SignReward":
        """Return the reward; it loads nothing."""
        return SignReward(self, SceneTextReader())


@dataclass(frozen=True)
class SignReward:
    """The reward of the word on a sign, in capitals. A prompt without a quoted word raises ``UserError``."""

    config: ReadSigns
    reader: TextReader

    @property
    def weights(self) -> Mapping[str, float]:
        """The weights of "letters" and "whole"."""
        return {"letters": self.config.letters, "whole": self.config.whole}

    def __call__(self, groups: SampledGroups) -> Mapping[str, Float[np.ndarray, "P M"]]:
        """Read all images in one call. "letters" is between 0 and 1, and "whole" is 0 or 1."""
        prompts, candidates = groups.images.shape[:2]
        words = [_quoted(prompt) for prompt in groups.prompts]
        read = iter(self.reader.read([*groups.images.reshape(-1, *groups.images.shape[2:])]))
        letters = np.zeros((prompts, candidates), np.float32)
        for row, word in enumerate(words):
            for column in range(candidates):
                found = next(read)
                letters[row, column] = 1.0 - edit_distance(word, found) / max(len(word), len(found))
        return {"letters": letters, "whole": (letters == 1.0).astype(np.float32)}


def _quoted(prompt: str) -> str:
    found = _QUOTED.search(prompt)
    if found is None:
        raise UserError(f'reward ReadSigns: expected a prompt with a word in quotes, such as "BUS", got {prompt!r}')
    return found[1].strip().upper()
