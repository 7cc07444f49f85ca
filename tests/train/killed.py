"""Runs that save at every step, to be killed: one for each line ``OUT STEPS`` that is read, in a process of its own.

They are forked off after the imports, before jax has a thread: a run then starts in a fraction of the time. Printed are
the number of its process and, when it has ended, how.
"""

import dataclasses
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dalle_jax.train.loop import train
from tests.train.child import TASK, TRAINER
from tests.train.toy import Lines, layout

for line in sys.stdin:
    out, steps = line.split()
    process = os.fork()
    if process == 0:
        trainer = dataclasses.replace(TRAINER, steps=int(steps), save_every=1)
        train(TASK, Lines(), trainer, layout(), out, "")
        os._exit(0)
    print(process, flush=True)
    print(os.waitpid(process, 0)[1], flush=True)
