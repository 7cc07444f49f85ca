"""One process of a run of several: ``many.py OUT DATA FSDP TENSOR PAUSE``; the environment says which it is."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dalle_jax.config.errors import UserError
from dalle_jax.parallel import hosts
from dalle_jax.train.loop import train
from tests.train.child import TRAINER, SlowLines
from tests.train.toy import Toy, layout

if __name__ == "__main__":
    try:
        hosts.join()
        shape = [int(size) for size in sys.argv[2:5]]
        data = SlowLines(pause=float(sys.argv[5]))
        result = train(Toy(noise=0.1, fixed=True), data, TRAINER, layout(*shape), sys.argv[1], "trainer.steps = 20\n")
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(f"interrupted={result.interrupted} step={result.step}")
