"""Protocol of the reader that judges a generated image."""

from typing import Protocol, runtime_checkable

import numpy as np

from dalle_jax.scenes.judge import Judgement


@runtime_checkable
class Judge(Protocol):
    """Reader that compares an image, uint8 [H W 3], with a caption part by part, such as ``scenes.judge.judge``."""

    def __call__(self, image: np.ndarray, caption: str, /) -> Judgement:
        """Return the verdict on every part of the caption."""
        ...
