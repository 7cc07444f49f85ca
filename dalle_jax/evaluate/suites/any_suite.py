"""The union of evaluation suites that a config can choose."""

from collections.abc import Mapping
from typing import TypeAlias

from dalle_jax.evaluate.suites.evaluate_captioned import EvaluateCaptioned
from dalle_jax.evaluate.suites.evaluate_icon_colours import EvaluateIconColours
from dalle_jax.evaluate.suites.evaluate_images import EvaluateImages
from dalle_jax.evaluate.suites.evaluate_scenes import EvaluateScenes
from dalle_jax.evaluate.suites.evaluate_text import EvaluateText
from dalle_jax.evaluate.suites.sets.evaluate_reconstruction import EvaluateReconstruction

AnySuite: TypeAlias = (
    EvaluateScenes | EvaluateCaptioned | EvaluateText | EvaluateImages | EvaluateIconColours | EvaluateReconstruction
)
"""The config of an evaluation suite."""


def on_data(suites: Mapping[str, AnySuite]) -> list[str]:
    """Return the names of the suites that measure on held-out images of the data."""
    return [name for name, one in suites.items() if not isinstance(one, EvaluateScenes | EvaluateText)]


def check_in_training(suites: Mapping[str, AnySuite], every: int | None, clip: str | None, images: bool) -> None:
    """Raise ``ValueError`` if a training run's suites, their interval, their CLIP and its data do not fit.

    ``images`` says whether the data has held-out images, which precomputed codes have not.
    """
    if bool(suites) != (every is not None):
        raise ValueError(f"suites: expected suites and trainer.suites_every, or neither, got {len(suites)} and {every}")
    if not suites and clip is not None:
        raise ValueError(f"suite_clip: expected None without suites, got {clip}")
    if not images and (names := on_data(suites)):
        raise ValueError(
            f"suites.{names[0]}: expected held-out images in data, on which it measures, got none; precomputed codes "
            "have no images"
        )
