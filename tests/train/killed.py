"""A run that saves at every step, in a process of its own, to be killed: ``killed.py OUT STEPS``."""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dalle_jax.train.loop import train
from tests.train.child import TASK, TRAINER
from tests.train.toy import Lines, layout

if __name__ == "__main__":
    trainer = dataclasses.replace(TRAINER, steps=int(sys.argv[2]), save_every=1)
    train(TASK, Lines(), trainer, layout(), sys.argv[1], "")
