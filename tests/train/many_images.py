"""One process of a run on tars of images: ``many_images.py OUT TARS VALIDATE BAD_SHARE PAUSE``.

It trains the toy on the images' first pixels and notes what it was given, a line for each row: step, row, key.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np

from dalle_jax.__main__ import main
from dalle_jax.commands import train
from dalle_jax.data.examples.held_out import HeldOut
from dalle_jax.data.examples.images import Images
from dalle_jax.data.sources.webdataset import WebDataset
from dalle_jax.parallel import hosts
from dalle_jax.runs import Data
from dalle_jax.train import loop
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.trainer import Trainer
from tests.train.toy import Toy, layout

STEPS, BATCH = 24, 8


@dataclass(frozen=True)
class Noting(Toy):
    """The toy task on images, which appends step, row and key of each training example to a file of its process."""

    notes: str = ""
    pause: float = 0.0

    def prepare(self, examples: dict[str, list[Any]], seeds: Sequence[tuple[int, ...]] | None) -> dict[str, np.ndarray]:
        if seeds is not None:
            time.sleep(self.pause if seeds[0][1] >= 10 else 0.0)
            lines = [f"{step} {row} {key}\n" for (_, step, row), key in zip(seeds, examples["key"], strict=True)]
            with open(self.notes, "a") as file:
                file.write("".join(lines))
        x = [image[0, :2].reshape(-1)[:4] / 255 for image in examples["image"]]
        return super().prepare({"x": x}, seeds)


def start(out: str, tars: str, validate: str, bad_share: str, pause: str) -> None:
    hosts.join()
    data = Data(
        source=WebDataset((tars,)),
        evaluation=HeldOut(count=8),
        batch_size=BATCH,
        images=Images(size=8, bad_share=float(bad_share), validate=validate),
        workers=1,
    ).open(Path(out))
    trainer = Trainer(steps=STEPS, schedule=ConstantRate(1e-3), log_every=4, save_every=4, evaluate_every=8)
    task = Noting(notes=f"{out}.notes-{os.getpid()}", pause=float(pause))
    result = loop.train(task, data, trainer, layout(len(jax.devices())), out, "data = 1\n")
    print(f"interrupted={result.interrupted} step={result.step}")


if __name__ == "__main__":
    train.add_arguments = lambda parser: parser.add_argument("all", nargs="*")  # main's way of telling errors
    train.run = lambda args: start(*args.all) or 0
    sys.exit(main(["train", *sys.argv[1:]]))
