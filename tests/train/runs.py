"""Whole runs of the toy task in this process."""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

from dalle_jax import storage
from dalle_jax.storage import Place
from dalle_jax.train.loop import TrainLoop
from tests.train.child import TASK, TRAINER
from tests.train.toy import Lines, layout

CONFIG = "trainer.steps = 20\n"
LINES = Lines()


def run(
    out: str | Place, data: Any = LINES, task: Any = TASK, lay: Any = None, config: str = CONFIG, **changes: Any
) -> TrainLoop:
    """Run to the end; return the closed loop with its last state."""
    with contextlib.ExitStack() as opened:
        trainer = dataclasses.replace(TRAINER, **changes)
        this = TrainLoop(task, data, trainer, lay or layout(), storage.place(out), config, opened)
        this.result = this.run()
    return this


@dataclasses.dataclass(frozen=True)
class StopsAt(Lines):
    """Batches that raise at a step, as if the machine failed."""

    step: int = 0

    def batch(self, step: int, rows: Any) -> dict[str, list[Any]]:
        if self.step == step:
            raise OSError("the disk is gone")
        return super().batch(step, rows)


@dataclasses.dataclass(frozen=True)
class LosesFolder(Lines):
    """Batches that move the run folder away before step 13, which is after its second checkpoint."""

    out: Path = Path()

    def batch(self, step: int, rows: Any) -> dict[str, list[Any]]:
        if step == 12:
            while not (self.out / "checkpoints" / "10").is_dir():
                time.sleep(0.02)
            self.out.rename(self.out.with_name("moved"))
        return super().batch(step, rows)
