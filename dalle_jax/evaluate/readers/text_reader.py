"""Protocol of programs that read the word on a sign, and the scene reader as one of them."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from dalle_jax.arrays import UInt8
from dalle_jax.scenes.perceive import perceive


@runtime_checkable
class TextReader(Protocol):
    """A reader of the word on the sign in an image."""

    @property
    def name(self) -> str:
        """The program and its version, such as ``tesseract 5.3.0 eng``."""
        ...

    def read(self, images: Sequence[UInt8[np.ndarray, "H W 3"]]) -> list[str]:
        """Return the word on each image in capitals, and "" if nothing was read."""
        ...


class SceneTextReader:
    """The scene reader, which matches each letter with templates of the letters that scenes are drawn with."""

    name = "scene reader"

    def read(self, images: Sequence[UInt8[np.ndarray, "H W 3"]]) -> list[str]:
        """Return the word on each image; a letter that matches no template is "?"."""
        return [perceive(image).word or "" for image in images]
