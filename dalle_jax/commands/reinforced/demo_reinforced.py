"""``demo-reinforced``: train the transformer of a finished demo by rewards; measure it before and after, and report."""

import argparse
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dalle_jax import storage
from dalle_jax.commands.flags.demo_flags import add_demo_flags
from dalle_jax.commands.stage_record import StageEntry, add_seconds, read_record
from dalle_jax.commands.train import train_stage
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.evaluate.report.accuracy_section import SPLIT_NAMES
from dalle_jax.evaluate.report.curves import read_metrics_file, training_charts
from dalle_jax.evaluate.report.machine import this_machine
from dalle_jax.evaluate.report.run_report import Comparison, Contender, Figure, RunReport, Stage
from dalle_jax.evaluate.report.write_report import write_report
from dalle_jax.evaluate.suites.evaluate_scenes import LEVEL_TITLES, EvaluateScenes, SceneFindings, evaluate_scenes
from dalle_jax.evaluate.suites.findings import SampleGroup
from dalle_jax.folder_lock import locked
from dalle_jax.pipelines.load.models import PipelineFile, absolute_needs, stage_folders
from dalle_jax.pipelines.load.pipeline import load_transformer_pipeline
from dalle_jax.runs import EvaluateRun, ReinforcedDemoRun, TrainRun, load_run
from dalle_jax.storage import Place, write_bytes
from dalle_jax.tasks.reinforcement.reinforce import Reinforce

DEFAULT = "demo/reinforced.gin"
STAGES = ("training", "evaluation")
BEFORE, AFTER = "before", "after"
CHARTED = ("reward", "reward/reader/parts", "reward/reader/whole", "image_nll", "kl", "entropy", "live_groups")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    fields = f"NAME.PATH sets a field of the stage {' or '.join(STAGES)}"
    add_demo_flags(parser, DEFAULT, fields, "runs/demo-reinforced")


def run(args: argparse.Namespace) -> int:
    """Train to the last step, then evaluate both models and write the report."""
    demo = ReinforcedDemo.read(args.config, args.set, args.out)
    with locked(args.out, "demo-reinforced"):
        if not demo.train():
            return 0
        page, _ = demo.report()
    say(f"the report is in {page}")
    return 0


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"[demo-reinforced] {text}", flush=True)


@dataclass(frozen=True)
class ReinforcedDemo:
    """The configs of the two stages, the folders of the finished demo's models, and the command that repeats it."""

    config: ReinforcedDemoRun
    out: Place
    needs: Mapping[str, str]
    stage: TrainRun
    evaluation: EvaluateScenes
    command: str

    @classmethod
    def read(cls, path: str, sets: list[str], out: Place) -> "ReinforcedDemo":
        """Read all configs and find the finished demo, before anything is trained."""
        by_stage = {name: [one for one in sets if one.startswith(f"{name}.")] for name in STAGES}
        own = [one for one in sets if not any(one in found for found in by_stage.values())]
        config: ReinforcedDemoRun = load_run(path, ReinforcedDemoRun, own)
        fields = {name: [one.removeprefix(f"{name}.") for one in found] for name, found in by_stage.items()}
        demo = storage.place(config.demo)
        if not (demo / "pipeline.gin").is_file():
            raise UserError(f"demo: expected the folder of a finished demo, got {demo}; run make demo first")
        needs = stage_folders(demo).needs
        stage: TrainRun = load_run(config.training, TrainRun, fields["training"], "training.")
        run: EvaluateRun = load_run(config.evaluation, EvaluateRun, fields["evaluation"], "evaluation.")
        evaluation = run.single()
        if not isinstance(evaluation, EvaluateScenes):
            raise UserError(f"evaluation: expected @EvaluateScenes, got @{type(evaluation).__name__}")
        flags = [word for one in sets for word in ("--set", one)]
        command = shlex.join(["python", "-m", "dalle_jax", "demo-reinforced", path, *flags, "--out", str(out)])
        return cls(config, out, needs, _given_to(stage, demo, needs), evaluation, command)

    def train(self) -> bool:
        """Train from the newest checkpoint. Return False if the user interrupted it."""
        say(f"training by rewards: {self.stage.trainer.steps} steps of {self.stage.data.batch_size} prompts")
        began = time.monotonic()
        result = train_stage(self.stage, self.out / "transformer", command="demo-reinforced")
        if result.interrupted:
            return False
        add_seconds(self.out, "transformer", time.monotonic() - began, result)
        needs = absolute_needs(image_tokenizer=self.needs["image_tokenizer"], clip=self.needs["clip"])
        write_bytes(self.out / "pipeline.gin", render(PipelineFile(needs | {"transformer": "transformer"})).encode())
        return True

    def report(self) -> tuple[Place, Place]:
        """Evaluate both models with the same captions and seeds, and write the report; return its paths."""
        began = time.monotonic()
        found = {}
        for name, needs in ((BEFORE, self.needs), (AFTER, stage_folders(self.out).needs)):
            evaluation = self.evaluation
            if name == BEFORE:
                drawing = replace(evaluation.drawing, guidance=self.config.guidance_before)
                evaluation = replace(evaluation, drawing=drawing)
            pipeline = load_transformer_pipeline(needs, evaluation.drawing.batch)
            say(f"{name}, guidance {evaluation.drawing.guidance:g}")
            found[name] = evaluate_scenes(pipeline, pipeline.codec, pipeline.require_ranker(), evaluation, say)
        add_seconds(self.out, "sampling", time.monotonic() - began)
        return write_report(self._report(found[BEFORE], found[AFTER]), self.out)

    def _report(self, before: SceneFindings, after: SceneFindings) -> RunReport:
        record = read_record(self.out)
        drawing, rise = self.evaluation.drawing, self.config.guidance_before
        return RunReport(
            title=self.config.title,
            summary=(
                "A transformer sampled images, a reader of pixels judged them, and the images that it found better "
                "became more likely. Both models draw the same captions with the same noise."
            ),
            command=self.command,
            seed=self.stage.trainer.seed,
            config_text=render(self.stage),
            wall_seconds=sum(entry["seconds"] for entry in record.values()),
            machine=this_machine(),
            stages=tuple(self._stage(name, entry) for name, entry in record.items()),
            comparison=Comparison(
                (Contender(BEFORE, _figures(before)), Contender(AFTER, _figures(after))),
                chosen=AFTER,
                why=f"First candidates at guidance {rise:g} before and {drawing.guidance:g} after, without guidance, "
                f"and CLIP’s choice of {drawing.candidates}.",
            ),
            reconstruction=after.reconstruction,
            sampling=f"{drawing.candidates} candidates for each caption, temperature {drawing.temperature:g}; the "
            "first of each model is shown",
            samples=tuple(side_by_side(*pair) for pair in zip(before.samples, after.samples, strict=True)),
            composition=after.composition,
            guidance=after.guidance,
            limits=(
                "The reader that gave the rewards also judges the images, which favours images that it reads well. "
                "The second reader works in another way and had no part in the rewards.",
            ),
            level_titles=tuple(pair for pair in LEVEL_TITLES if pair[0] in self.evaluation.levels),
        )

    def _stage(self, name: str, entry: StageEntry) -> Stage:
        """Return the report's section on one stage, from its entry in ``stages.json``."""
        titles = {"transformer": "Training by rewards", "sampling": "Sampling, ranking and judging"}
        charts = training_charts(read_metrics_file(self.out / name / "metrics.jsonl"), CHARTED)
        return Stage(name, titles[name], entry["seconds"], entry.get("steps"), entry.get("parameters"), charts)


def side_by_side(before: SampleGroup, after: SampleGroup) -> SampleGroup:
    """Return pairs of the first candidates of both models for the same captions."""
    samples = tuple(replace(one, chosen=other.first) for one, other in zip(before.samples, after.samples, strict=True))
    return replace(before, samples=samples, headings=("Before", "After"))


def _given_to(stage: TrainRun, demo: Place, needs: Mapping[str, str]) -> TrainRun:
    """Return the training's config with the folders of the demo's models."""
    task = stage.task
    if not isinstance(task, Reinforce):
        raise UserError(f"training: expected task = @Reinforce, got @{type(task).__name__}")
    captions = replace(task.generate.captions, file=str(demo / "text.model"))
    generate = replace(task.generate, captions=captions, image_tokenizer=needs["image_tokenizer"])
    transformer = needs["transformer"]
    trainer = replace(stage.trainer, initial=transformer)
    return replace(stage, task=replace(task, generate=generate, reference=transformer), trainer=trainer)


def _figures(findings: SceneFindings) -> tuple[Figure, ...]:
    """Return the accuracies of a model: each cell's first candidate, without guidance too, and CLIP's choice.

    The first candidate and CLIP's choice are also judged by the second reader.
    """
    figures = []
    plain = next((point.composition for point in findings.guidance if point.scale == 1.0), None)
    for cell in findings.composition.cells:
        place, path = f"Level {cell.level}, {SPLIT_NAMES[cell.split]}", f"level_{cell.level}.{cell.split}"
        own = None if plain is None else plain.cell(cell.level, cell.split)
        rows: Sequence[tuple[str, str, float | None]] = (
            ("unguided", "first, no guidance", None if own is None else own.first.value),
            ("first", "first", cell.first.value),
            ("chosen", "CLIP’s choice", cell.chosen.value),
        )
        if cell.second is not None:
            rows = (
                *rows,
                ("second_first", "first, second reader", cell.second.first.value),
                ("second_chosen", "CLIP’s choice, second reader", cell.second.chosen.value),
            )
        figures += [Figure(f"{path}.{key}", f"{place}: {label}", value, "percent") for key, label, value in rows]
    return tuple(figures)
