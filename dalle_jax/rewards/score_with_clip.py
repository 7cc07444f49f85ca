"""The reward of a CLIP: the similarity of an image and its prompt."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dalle_jax import storage
from dalle_jax.arrays import Float
from dalle_jax.evaluate.suites.pipeline_parts import TextImageEncoder
from dalle_jax.pipelines.load.models import load_clip
from dalle_jax.pipelines.load.text import load_text
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.rewards.reward import SampledGroups


@dataclass(frozen=True)
class ScoreWithClip:
    """The cosine similarity of a CLIP, trained here or imported.

    - ``folder``: the CLIP's folder. Several CLIPs are several rewards with a name and a ``weight`` each.
    - ``batch``: the number of images that one call encodes.
    """

    folder: str
    weight: float = 1.0
    batch: int = 64

    def open(self) -> "ClipReward":
        """Load the CLIP and its text tokenizer. Raise ``UserError`` if the folder has none."""
        folder = storage.place(self.folder)
        clip = load_clip(folder)
        text = load_text(folder, clip.config.text_length)
        return ClipReward(self, ClipRanker(clip, text, self.batch))


@dataclass(frozen=True, eq=False)
class ClipReward:
    """The reward of a loaded CLIP, which is placed on one device of each process."""

    config: ScoreWithClip
    ranker: TextImageEncoder

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of the similarity."""
        return {"": self.config.weight}

    def __call__(self, groups: SampledGroups) -> Mapping[str, Float[np.ndarray, "P M"]]:
        """Return the cosine similarity of each image with its prompt, from -1 to 1."""
        prompts, candidates = groups.images.shape[:2]
        images = self.ranker.image_vectors(groups.images.reshape(-1, *groups.images.shape[2:]))
        texts = self.ranker.text_vectors(groups.prompts)
        return {"": np.einsum("pme,pe->pm", images.reshape(prompts, candidates, -1), texts)}
