"""One process of several: ``many.py OUT DATA FSDP TENSOR PAUSE FAILS``; FAILS is the process that fails, or -1.

The environment says which process it is.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dalle_jax.commands.leave import leave
from dalle_jax.config.errors import UserError
from dalle_jax.parallel import failures, hosts
from dalle_jax.train.loop import train
from tests.train.child import TRAINER, SlowLines
from tests.train.toy import Toy, layout


@dataclass(frozen=True)
class FailingLines(SlowLines):
    """Noisy lines that raise in one process before step 13, which the other processes begin."""

    process: int = -1

    def batch(self, step: int, rows: Any) -> dict[str, list[Any]]:
        if step == 12 and jax.process_index() == self.process:
            raise UserError("its disk is gone")
        return super().batch(step, rows)


if __name__ == "__main__":
    try:
        hosts.join()
        shape = [int(size) for size in sys.argv[2:5]]
        data = FailingLines(pause=float(sys.argv[5]), process=int(sys.argv[6]))
        with failures.shared():
            result = train(
                Toy(noise=0.1, fixed=True), data, TRAINER, layout(*shape), sys.argv[1], "trainer.steps = 20\n"
            )
    except UserError as error:
        print(error, file=sys.stderr)
        leave(2)
    print(f"interrupted={result.interrupted} step={result.step}")
