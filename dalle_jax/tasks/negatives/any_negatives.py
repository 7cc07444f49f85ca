"""The makers of hard negatives that a config can choose."""

from typing import TypeAlias

from dalle_jax.tasks.negatives.scene_negatives import SceneNegatives
from dalle_jax.tasks.negatives.word_negatives import WordNegatives

AnyNegatives: TypeAlias = SceneNegatives | WordNegatives
