"""The six levels of scenes at 64 px on one accelerator, in one call of a limited time: all stages, then rewards.

    python benchmarks/accelerator_scenes.py --minutes 8.5 --out runs/scenes_64

Each stage of ``configs/runs/scenes.gin`` runs its first steps, whose speed gives the number of steps that fit its share
of the time, and goes on to that step. The report of ``demo`` measures the transformer before rewards. Then
``configs/runs/scenes/reinforce.gin`` trains it in what is left, and ``evaluate`` measures it again. Files to keep are
copied to ``--keep`` (by default ``$OUT``, else ``runs/scenes_64_kept``): report.html, before.json, after.json and
steps.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARES = {"tokenizer": 0.15, "clip": 0.2, "transformer": 0.65}
"""The shares of the stages in the time for training before rewards."""
FIRST_STEPS, REINFORCED_SHARE, EVALUATION_SECONDS = 40, 0.2, 60.0
EVALUATION = (
    "evaluations.scenes.captions=60",
    "evaluations.scenes.many_captions=0",
    "evaluations.scenes.guidance_captions=0",
)
"""Fields that make the config's evaluation fit ``EVALUATION_SECONDS``."""


@dataclass
class Timed:
    """The run's folder and its seconds. ``tiny`` fields of stages make them small enough for a test."""

    out: Path
    seconds: float
    tiny: dict[str, Sequence[str]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    steps: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.began + self.seconds - time.monotonic()

    def call(self, *words: str, sets: Sequence[str] = ()) -> None:
        """Run a command of ``dalle_jax``; raise ``subprocess.CalledProcessError`` if it fails."""
        flags = [word for one in sets for word in ("--set", one)]
        cache = {"JAX_COMPILATION_CACHE_DIR": str(self.out / "compiled"), "PYTHONPATH": str(ROOT)}
        before = os.environ.get("PYTHONPATH")
        cache["PYTHONPATH"] += os.pathsep + before if before else ""
        print(f"[{self.seconds - self.left:.0f} s]", *words, *sets, flush=True)
        subprocess.run([sys.executable, "-m", "dalle_jax", *words, *flags], check=True, env={**os.environ, **cache})

    def train(self, name: str, config: str, folder: Path, seconds: float, sets: Sequence[str]) -> None:
        """Train a stage for about ``seconds``, with the compilation of its first steps."""
        end = time.monotonic() + seconds
        sets = [*sets, *self.tiny.get(name, ()), "trainer.log_every=10"]
        steps = FIRST_STEPS
        for last in (False, True):
            ends = [f"trainer.{key}={steps}" for key in ("steps", "evaluate_every", "save_every")]
            self.call("train", config, "--out", str(folder), sets=[*sets, *ends, "trainer.images_every=None"])
            if not last:
                speed = steps_per_second(folder)
                # The second run loads the compiled programs; 15 s beside its steps are assumed, not measured.
                steps += max(10, int(speed * max(0.0, end - time.monotonic() - 15)) // 10 * 10)
        self.steps[name] = {"steps": steps, "steps_per_second": speed, "first_steps": FIRST_STEPS}


def steps_per_second(folder: Path) -> float:
    """Return the speed of the last ten steps of a run."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["train/steps_per_second"] for line in lines if "train/steps_per_second" in line][-1]


def run(timed: Timed, keep: Path) -> None:
    """Train and measure everything, and copy what is to be kept after each part."""
    out, text, tokenizer = timed.out, timed.out / "text.model", timed.out / "tokenizer"
    keep.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    training = timed.seconds - 2 * EVALUATION_SECONDS
    timed.call("text-tokenizer", "configs/runs/scenes/text.gin", "--out", str(text))
    given = {"tokenizer": [], "clip": [f"task.captions.file='{text}'", f"task.image_tokenizer='{tokenizer}'"]}
    given["transformer"] = given["clip"]
    configs = {"tokenizer": "tokenizer", "clip": "clip", "transformer": "dalle"}
    for name, share in SHARES.items():
        seconds = share * (1 - REINFORCED_SHARE) * training
        timed.train(name, f"configs/runs/scenes/{configs[name]}.gin", out / name, seconds, given[name])
    sets = [f"stages.evaluation.{one}" for one in timed.tiny.get("evaluation", EVALUATION)]
    for name in SHARES:
        fields = [*timed.tiny.get(name, ()), f"trainer.steps={timed.steps[name]['steps']:.0f}"]
        sets += [f"stages.{name}.{one}" for one in fields]
    timed.call("demo", "configs/runs/scenes.gin", "--out", str(out), sets=sets)
    (keep / "steps.json").write_text(json.dumps(timed.steps, indent=2) + "\n")
    shutil.copy(out / "report.html", keep)
    shutil.copy(out / "metrics.json", keep / "before.json")
    reinforced = out.parent / f"{out.name}_reinforced"
    folders = {"reference": "transformer", "generate.captions.file": "text.model"}
    folders["generate.image_tokenizer"] = "tokenizer"
    own = [f"task.{field}='{out / file}'" for field, file in folders.items()]
    own.append(f"trainer.initial='{out / 'transformer'}'")
    seconds = max(0.0, timed.left - EVALUATION_SECONDS)
    timed.train("reinforce", "configs/runs/scenes/reinforce.gin", reinforced / "transformer", seconds, own)
    needs = {"transformer": reinforced / "transformer", "image_tokenizer": tokenizer, "clip": out / "clip"}
    lines = ["run = @PipelineFile", *(f"needs.{name} = '{folder}'" for name, folder in needs.items())]
    (reinforced / "pipeline.gin").write_text("\n".join(lines) + "\n")
    words = ("evaluate", "configs/runs/scenes/evaluation.gin", "--model", str(reinforced))
    evaluation = timed.tiny.get("evaluation", EVALUATION)
    timed.call(*words, "--out", str(keep / "after.json"), sets=evaluation)
    (keep / "steps.json").write_text(json.dumps(timed.steps, indent=2) + "\n")


def main() -> None:
    """Read the flags and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--out", type=Path, default=Path("runs/scenes_64"))
    parser.add_argument("--keep", type=Path, default=Path(os.environ.get("OUT", "runs/scenes_64_kept")))
    args = parser.parse_args()
    run(Timed(args.out.resolve(), 60 * args.minutes), args.keep)


if __name__ == "__main__":
    main()
