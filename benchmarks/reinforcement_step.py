"""A step of training by rewards, compared with the rollout and one training step of the same images.

    python benchmarks/reinforcement_step.py --config configs/demo/reinforce.gin --rounds 9

The config's models must exist. Each round times, in turn: a step of ``Reinforce`` by its parts, plain sampling of as
many images as ``sample`` draws them, and a training step of ``GenerateCodes`` on the codes of the images that the
update trains on. Medians of wall and CPU seconds are printed, and the two ratios that the project bounds.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np
from harness import cpu_model

from dalle_jax.commands.memory import keep_large_buffers
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import make_mesh
from dalle_jax.pipelines.load.pipeline import load_pipeline
from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.runs import TrainRun, load_run
from dalle_jax.storage import place
from dalle_jax.tasks.reinforcement.reinforce import Reinforce
from dalle_jax.train.checkpoints.save_weights import with_weights
from dalle_jax.train.compiled import CompiledTask


class Seconds:
    """Wall and CPU seconds of parts, by name."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = defaultdict(list)
        self.cpu: dict[str, list[float]] = defaultdict(list)

    def time(self, name: str, call: Callable[[], object]) -> object:
        """Call a function, wait for its arrays, and note its time."""
        wall, cpu = time.monotonic(), time.process_time()
        found = jax.block_until_ready(call())
        self.wall[name].append(time.monotonic() - wall)
        self.cpu[name].append(time.process_time() - cpu)
        return found

    def medians(self) -> dict[str, dict[str, float]]:
        """Return the medians without the first round, which compiles."""
        return {
            name: {"wall": statistics.median(walls[1:]), "cpu": statistics.median(self.cpu[name][1:])}
            for name, walls in self.wall.items()
        }


class Step:
    """The step of a config, and what it is compared with."""

    def __init__(self, run: TrainRun) -> None:
        config = run.task
        assert isinstance(config, Reinforce)
        layout = Layout(make_mesh(run.mesh), run.rules)
        self.task = config.open(layout)
        self.data = run.data.open()
        generate = replace(config.generate, image_size=None).open(layout)
        self.ours = CompiledTask(self.task, run.trainer, layout)
        self.plain = CompiledTask(generate, run.trainer, layout)
        initial = place(str(run.trainer.initial))
        fresh = [one.state_spec.init_sharded(layout, 0) for one in (self.ours, self.plain)]
        self.state = with_weights(fresh[0], self.task, initial, layout)
        self.plain_state = with_weights(fresh[1], generate, initial, layout)
        self.layout, self.config = layout, config
        prompts = run.data.batch_size
        self.pipeline = load_pipeline(place(config.reference), batch=prompts * config.group)

    def round(self, index: int, seconds: Seconds) -> None:
        """Time one step and its comparisons."""
        count = self.data.batch_size
        examples = self.data.batch(index, range(count))
        prompts, arrays = self.task.rollout_inputs(examples, [(0, index, row) for row in range(count)])
        batch = self.layout.put_batch(arrays, count)
        drawn = seconds.time("rollout", lambda: self.ours.rollout(self.state, batch, index))
        samples = {name: np.asarray(one) for name, one in drawn.items()}
        rewards = seconds.time("judging", lambda: self.task.judge(prompts, samples))
        rows = self.task.training_batches(samples, rewards).batches[0]
        own = self.layout.put_batch(rows)
        self.state = seconds.time("update", lambda: self.ours.step(self.state, None, own)[0])
        requests = [
            Request(one, RequestOptions(candidates=self.config.group, keep=1, guidance=self.config.guidance, seed=row))
            for row, one in enumerate(prompts)
        ]
        seconds.time("sampling", lambda: [one.candidates for one in self.pipeline.draw(requests)])
        codes = self.layout.put_batch({"text": rows["text"], "codes": rows["codes"]})
        self.plain_state = seconds.time("training", lambda: self.plain.step(self.plain_state, None, codes)[0])


def main() -> None:
    """Run the rounds and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/demo/reinforce.gin")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    keep_large_buffers()
    step, seconds = Step(load_run(options.config, TrainRun, options.set)), Seconds()
    for index in range(options.rounds + 1):
        step.round(index, seconds)
    found = seconds.medians()
    ratios = {
        f"{of}_{kind}": sum(found[part][kind] for part in parts) / sum(found[part][kind] for part in bases)
        for kind in ("wall", "cpu")
        for of, parts, bases in (
            ("step", ("rollout", "judging", "update"), ("rollout", "training")),
            ("rollout", ("rollout",), ("sampling",)),
        )
    }
    print(json.dumps({"machine": cpu_model(), "rounds": options.rounds, "seconds": found, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
