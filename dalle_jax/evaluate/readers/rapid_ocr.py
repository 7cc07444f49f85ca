"""RapidOCR as a reader of signs: a package of its own, whose models are in its wheel."""

import importlib
import importlib.metadata
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np

from dalle_jax.arrays import UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.readers.sign_board import ink_on_white
from dalle_jax.evaluate.readers.tesseract import CAPITALS

ALIKE = str.maketrans("01258", "OIZSB")
"""Digits that the program, which cannot be limited to capitals, reads for capitals of the same form."""


@runtime_checkable
class _Result(Protocol):
    txts: tuple[str, ...] | None


@runtime_checkable
class _Engine(Protocol):
    def __call__(self, image: np.ndarray, *, use_det: bool, use_cls: bool, use_rec: bool) -> _Result: ...


@dataclass(frozen=True)
class RapidOcr:
    """The package ``package`` (Apache-2.0) with the models that its wheel holds; nothing is downloaded."""

    package: str = "rapidocr"

    @cached_property
    def name(self) -> str:
        """The package and its version. Raise ``UserError`` if it is not installed."""
        self._folder  # noqa: B018
        return f"{self.package} {importlib.metadata.version(self.package)}"

    def read(self, images: Sequence[UInt8[np.ndarray, "H W 3"]]) -> list[str]:
        """Return the word on each image, which is recognised as one line."""
        return [self._word(image) for image in images]

    def _word(self, image: np.ndarray) -> str:
        line = np.repeat(ink_on_white(image)[..., None], 3, axis=-1)
        found = self._engine(line, use_det=False, use_cls=False, use_rec=True).txts or ()
        text = unicodedata.normalize("NFKC", "".join(found)).upper().translate(ALIKE)
        return "".join(letter for letter in text if letter in CAPITALS)

    @cached_property
    def _folder(self) -> Path:
        """The folder of the models. Raise ``UserError`` unless the package has them, since it would download them."""
        try:
            module = importlib.import_module(self.package)
        except ImportError as error:
            raise UserError(
                f"{self.package}: expected the package to be installed (pip install 'dalle-jax[rapidocr]'), "
                f"got {error}; leave it out of readers"
            ) from error
        folder = Path(str(module.__file__)).parent / "models"
        missing = [kind for kind in ("det", "cls", "rec") if not any(folder.glob(f"*_{kind}_*.onnx"))]
        if missing:
            raise UserError(
                f"{self.package}: expected models inside the package, as version 3.10 has them, found none for "
                f"{', '.join(missing)}; nothing is downloaded"
            )
        return folder

    @cached_property
    def _engine(self) -> _Engine:
        self._folder  # noqa: B018
        try:
            made = importlib.import_module(self.package).RapidOCR(params={"Global.log_level": "critical"})
        except ImportError as error:
            raise UserError(f"{self.package}: expected onnxruntime beside it, got {error}") from error
        return cast(_Engine, made)
