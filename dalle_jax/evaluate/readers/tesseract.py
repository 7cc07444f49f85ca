"""Tesseract 5 as a reader of signs: a program of its own, started once for many images."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dalle_jax.arrays import UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.readers.sign_board import ink_on_white
from dalle_jax.images.png import encode_png

CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
IMAGES_AT_ONCE = 250
"""Images that one start of the program reads."""
ONE_LINE = "7"
"""The page segmentation mode for an image with a single line of text."""


@dataclass(frozen=True)
class Tesseract:
    """The program ``program`` with its English model, which chooses among all capitals.

    An image in which it finds none is read again without that limit, since it sees a lone "O" as a digit first.
    A start that takes longer than ``seconds`` is an error.
    """

    program: str = "tesseract"
    seconds: float = 120.0

    @cached_property
    def name(self) -> str:
        """The program, its version and its language. Raise ``UserError`` if it is not installed or has no English."""
        version = self._run(["--version"]).partition("\n")[0]
        number = re.search(r"\d+(\.\d+)+", version)
        if number is None or int(number[0].partition(".")[0]) < 4:
            raise UserError(f"{self.program}: expected tesseract 4 or later, got {version!r:.60}")
        if "eng" not in self._run(["--list-langs"]).split():
            raise UserError(f"{self.program}: expected its English model, found none; install tesseract-ocr-eng")
        return f"tesseract {number[0]} eng"

    def read(self, images: Sequence[UInt8[np.ndarray, "H W 3"]]) -> list[str]:
        """Return the word on each image. Raise ``UserError`` if the program fails or takes too long."""
        words = self._read_all(images, ["-c", f"tessedit_char_whitelist={CAPITALS}"])
        empty = [number for number, word in enumerate(words) if not word]
        for number, word in zip(empty, self._read_all([images[i] for i in empty], []), strict=True):
            words[number] = "".join(letter for letter in word.upper() if letter in CAPITALS)
        return words

    def _read_all(self, images: Sequence[np.ndarray], options: list[str]) -> list[str]:
        starts = range(0, len(images), IMAGES_AT_ONCE)
        return [word for start in starts for word in self._read_some(images[start : start + IMAGES_AT_ONCE], options)]

    def _read_some(self, images: Sequence[np.ndarray], options: list[str]) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, f"{number}.png") for number in range(len(images))]
            for path, image in zip(paths, images, strict=True):
                path.write_bytes(encode_png(ink_on_white(image)))
            listed = Path(folder, "list.txt")
            listed.write_text("".join(f"{path}\n" for path in paths))
            pages = self._run([str(listed), "stdout", "-l", "eng", "--psm", ONE_LINE, *options]).split("\f")
        if len(pages) == len(images) + 1 and not pages[-1].strip():  # version 4 ends every page with a form feed
            pages.pop()
        if len(pages) != len(images):
            raise UserError(f"{self.program}: expected a page for each of {len(images)} images, got {len(pages)}")
        return ["".join(page.split()) for page in pages]

    def _run(self, arguments: list[str]) -> str:
        """Return the output of the program, which gets one thread: images are small, and threads only slow it down."""
        if shutil.which(self.program) is None:
            raise UserError(
                f"{self.program}: expected Tesseract 5 to be installed (Debian's package tesseract-ocr), found none; "
                "leave it out with readers = ('scenes',)"
            )
        environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}
        try:
            done = subprocess.run(
                [self.program, *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.seconds,
                env=environment,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{self.program}: expected an answer within {self.seconds:g} s, got none") from error
        except OSError as error:
            raise UserError(f"{self.program}: expected a program that starts, got {error.strerror}") from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"{self.program}: expected exit status 0, got {done.returncode} ({last:.200})")
        return done.stdout
