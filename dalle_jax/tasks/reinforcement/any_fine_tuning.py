"""The union of the tasks that start from a trained model, which stays beside them frozen."""

from typing import TypeAlias

from dalle_jax.tasks.fine_tuning.align_conditions import AlignConditions
from dalle_jax.tasks.fine_tuning.optimize_preferences import OptimizePreferences
from dalle_jax.tasks.reinforcement.reinforce import Reinforce
from dalle_jax.tasks.reinforcement.reinforce_decoder import ReinforceDecoder

AnyFineTuning: TypeAlias = AlignConditions | OptimizePreferences | Reinforce | ReinforceDecoder
"""The configs of fine-tuning; each has the folder ``reference`` of the trained model."""
