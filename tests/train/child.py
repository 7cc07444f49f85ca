"""A run in its own process, to be killed, interrupted or kept from saving: ``child.py OUT PAUSE full|blocked|""``."""

import dataclasses
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dalle_jax.config.errors import UserError
from dalle_jax.train.loop import train
from dalle_jax.train.optim.ema import WarmedEma
from dalle_jax.train.optim.schedules import CosineRate
from dalle_jax.train.trainer import Trainer
from tests.train.toy import Lines, Toy, layout

TRAINER = Trainer(
    steps=20,
    schedule=CosineRate(1e-2, warmup=5),
    ema=WarmedEma(0.99),
    clip_norm=1.0,
    log_every=4,
    save_every=5,
    abort_after_skips=3,
)
TASK = Toy(noise=0.1, fixed=True)


@dataclass(frozen=True)
class SlowLines(Lines):
    """Noisy lines that come slowly from step 12 on, so that the process can be killed in time."""

    pause: float = 0.0
    fails: str = ""

    def batch(self, step: int, rows: Any) -> dict[str, list[Any]]:
        if self.fails and step == 12:
            wait_for_checkpoint(10)
            if self.fails == "full":
                resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
            else:  # a file in place of the folder, so that the next checkpoint's folder cannot be created
                folder = Path(sys.argv[1]) / "checkpoints"
                folder.rename(folder.with_name("moved"))
                folder.touch()
        time.sleep(self.pause if step >= 12 else 0.0)
        return super().batch(step, rows)


def wait_for_checkpoint(step: int) -> None:
    while not (Path(sys.argv[1]) / "checkpoints" / str(step)).is_dir():
        time.sleep(0.02)


if __name__ == "__main__":
    data = SlowLines(pause=float(sys.argv[2]), fails=sys.argv[3])
    # Figures only at the end, so that a full disk is met by a checkpoint first.
    trainer = dataclasses.replace(TRAINER, log_every=20) if data.fails else TRAINER
    try:
        result = train(TASK, data, trainer, layout(), sys.argv[1], "trainer.steps = 20\n")
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(f"interrupted={result.interrupted} step={result.step}")
