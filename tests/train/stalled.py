"""A run in a process of its own that hangs before its seventh step, or is only slow: ``stalled.py OUT hangs|slow``."""

import dataclasses
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dalle_jax.train.loop import train
from tests.train.child import TRAINER
from tests.train.toy import Lines, Toy, layout

SECONDS = 3.0
"""What a step may take; the first one, and an evaluation, six times as much."""


@dataclass(frozen=True)
class Hanging(Lines):
    hangs: bool = False

    def batch(self, step: int, rows: Any) -> dict[str, list[Any]]:
        if self.hangs and step == 6:
            threading.Event().wait()
        time.sleep(0.0 if self.hangs else 0.15 * SECONDS)
        return super().batch(step, rows)

    def evaluation_batches(self, rows: Any) -> Any:
        time.sleep(0.0 if self.hangs else 1.5 * SECONDS)
        return super().evaluation_batches(rows)


if __name__ == "__main__":
    data = Hanging(hangs=sys.argv[2] == "hangs")
    trainer = dataclasses.replace(
        TRAINER, steps=8, log_every=2, evaluate_every=4, save_every=None, stall_seconds=SECONDS
    )
    result = train(Toy(), data, trainer, layout(), sys.argv[1], "trainer.steps = 8\n")
    print(f"step={result.step}")
