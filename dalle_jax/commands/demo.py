"""``demo``: train text tokenizer, image tokenizer, CLIP and transformer from scratch; sample, measure and report."""

import argparse
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from dalle_jax.commands.demo_checks import Counts, DemoChecks
from dalle_jax.commands.demo_stages import PREFIX, read_stages
from dalle_jax.commands.flags.demo_flags import add_demo_flags
from dalle_jax.commands.stage_record import StageEntry, add_seconds, read_record
from dalle_jax.commands.text_tokenizer import train_model
from dalle_jax.commands.train import train_stage
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.config.sources import find
from dalle_jax.evaluate.metrics.scene_reader import ReaderCheck, check_reader, check_reader_on
from dalle_jax.evaluate.report.captioned_figures import captioned_figures
from dalle_jax.evaluate.report.curves import read_metrics_file, training_charts
from dalle_jax.evaluate.report.machine import this_machine
from dalle_jax.evaluate.report.run_report import Comparison, Contender, Figure, RunReport, Stage
from dalle_jax.evaluate.report.write_report import write_report
from dalle_jax.evaluate.suites.evaluate_captioned import (
    CaptionedBatch,
    CaptionedFindings,
    EvaluateCaptioned,
    draw_trained_captions,
    evaluate_captioned,
)
from dalle_jax.evaluate.suites.evaluate_scenes import LEVEL_TITLES, EvaluateScenes, SceneFindings, evaluate_scenes
from dalle_jax.evaluate.suites.findings import SampleGroup, best_scale
from dalle_jax.folder_lock import locked
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.load.models import PipelineFile, stage_folders
from dalle_jax.pipelines.load.pipeline import load_transformer_pipeline
from dalle_jax.runs import Data, DemoRun, EvaluateRun, TextTokenizerRun, TrainRun
from dalle_jax.sampling.options import RecommendedSampling
from dalle_jax.storage import Place, write_bytes
from dalle_jax.text.sentencepiece import SentencePiece
from dalle_jax.untrusted import parse_object, read_file

DEFAULT = "demo/demo.gin"
READER_IMAGES = 300
"""Number of rendered images per level on which the report measures the accuracy of the scene reader."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    fields = "stages.NAME.PATH sets a field of the stage text, tokenizer, clip, transformer or evaluation"
    add_demo_flags(parser, DEFAULT, fields, "runs/demo")


def run(args: argparse.Namespace) -> int:
    """Run the stages that are not finished, then evaluate and write the report."""
    demo = Demo.read(args.config, args.set, args.out)
    with locked(args.out, "demo"):
        demo.prepare()
        if not demo.train():
            return 0
        page, _ = demo.report()
    say(f"the report is in {page}")
    return 0


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"[demo] {text}", flush=True)


@dataclass
class Demo:
    """A demo and its folder: the configs of its stages, and the command that repeats it."""

    config: DemoRun
    out: Place
    text: TextTokenizerRun
    stages: dict[str, TrainRun]
    evaluation: EvaluateRun
    command: str

    @classmethod
    def read(cls, path: str, sets: list[str], out: Place) -> "Demo":
        """Read all configs, so that every mistake in them is found before the first stage."""
        read = read_stages(path, sets, out)
        flags = [word for one in sets for word in ("--set", one)]
        command = shlex.join(["python", "-m", "dalle_jax", "demo", path, *flags, "--out", str(out)])
        return cls(read.config, out, read.text, read.trained, read.evaluation, command)

    def prepare(self) -> None:
        """Train the text tokenizer. Then check all other stages, before any is trained.

        The stages are checked against each other and against the data, and sizes are fitted to the data. Raises one
        UserError with all problems.
        """
        began = time.monotonic()
        path, problems = self.out / "text.model", []
        checks = DemoChecks(self.stages, self.evaluation)
        trained = not path.exists()
        model = None
        try:
            model = train_model(self.text)[0] if trained else path.read_bytes()
            checks.fit_vocabularies(SentencePiece(model, 1).vocab_size, self.text.vocabulary)
        except UserError as error:
            problems += [f"{PREFIX}text: {error}"]
        seconds = time.monotonic() - began
        counts = self._counts(problems)
        checks.check_codes()
        checks.check_batches(counts)
        if "evaluation" in counts:
            checks.fit_evaluation(counts["evaluation"])
        for line in checks.messages:
            say(line)
        if problems or checks.problems:
            raise UserError("\n".join(problems + checks.problems))
        self.stages, self.evaluation = checks.stages, checks.evaluation
        if trained and model is not None:
            write_bytes(path, model)
            add_seconds(self.out, "text", seconds)

    def _counts(self, problems: list[str]) -> dict[str, Counts]:
        """Open the data of each stage; return its numbers of examples by stage. Errors are added to ``problems``."""
        counts: dict[str, Counts] = {}
        if self.config.data is not None:
            try:
                shared = _count(self.config.data.with_batch_size(1), self.out / "tokenizer")
            except UserError as error:
                problems.append(str(error))
                return {}
            return dict.fromkeys((*self.stages, "evaluation"), shared)
        data: dict[str, tuple[Data, Place | None]] = {
            name: (run.data, self.out / name) for name, run in self.stages.items()
        }
        if self.evaluation.data is not None:
            data["evaluation"] = (self.evaluation.data.with_batch_size(1), None)
        for name, (one, folder) in data.items():
            try:
                counts[name] = _count(one, folder)
            except UserError as error:
                problems.append(f"{PREFIX}{name}: {error}")
        return counts

    def train(self) -> bool:
        """Train the stages in order, each from its newest checkpoint. Return False if the user interrupted one."""
        for name, config in self.stages.items():
            steps = config.trainer.steps
            say(f"training the {name}: {steps} steps with batch size {config.data.batch_size}")
            began = time.monotonic()
            result = train_stage(config, self.out / name, command="demo")
            if result.interrupted:
                return False
            add_seconds(self.out, name, time.monotonic() - began, result)
        self._write_pipeline_file(None)
        return True

    def _write_pipeline_file(self, sampling: RecommendedSampling | None) -> None:
        """Write ``pipeline.gin``, with the sampling that ``sample`` and ``serve`` take by default."""
        needs = {"image_tokenizer": "tokenizer", "transformer": "transformer", "clip": "clip"}
        write_bytes(self.out / "pipeline.gin", render(PipelineFile(needs, sampling=sampling)).encode())

    def report(self) -> tuple[Place, Place]:
        """Sample, evaluate, and write ``report.html`` and ``metrics.json``; return their paths."""
        began = time.monotonic()
        evaluation = self.evaluation.single()
        pipeline = load_transformer_pipeline(stage_folders(self.out).needs, evaluation.drawing.batch)
        codec, clip = pipeline.codec, pipeline.require_ranker()
        if isinstance(evaluation, EvaluateCaptioned) and self.evaluation.data is not None:
            data = self.evaluation.data.with_batch_size(evaluation.among).open()
            findings: CaptionedFindings | SampleGroup
            if data.held_out:
                batches = cast("Iterator[CaptionedBatch]", data.evaluation_batches())
                findings = evaluate_captioned(pipeline, codec, clip, pipeline.likelihood, evaluation, batches, say)
            else:
                captions = dict.fromkeys(data.batch(0, range(min(evaluation.shown, data.examples)))["caption"])
                findings = draw_trained_captions(pipeline, evaluation, list(captions))
            add_seconds(self.out, "sampling", time.monotonic() - began)
            return write_report(self._captioned_report(findings), self.out)
        assert isinstance(evaluation, EvaluateScenes)
        scenes = evaluate_scenes(pipeline, codec, clip, evaluation, say)
        if (scale := best_scale(scenes.guidance)) is not None:
            self._write_pipeline_file(RecommendedSampling(guidance=scale))
        reader = _check_reader(codec, pipeline.side, evaluation)
        add_seconds(self.out, "sampling", time.monotonic() - began)
        return write_report(self._scenes_report(scenes, reader, evaluation), self.out)

    def _report(self, summary: str) -> RunReport:
        """Return the part of the report that is the same for scenes and for captioned images."""
        stages = read_record(self.out)
        drawing = self.evaluation.single().drawing
        return RunReport(
            title=self.config.title,
            summary=summary,
            command=self.command,
            seed=self.stages["transformer"].trainer.seed,
            config_text="\n".join(f"# {name}\n{render(config)}" for name, config in self.stages.items()),
            wall_seconds=sum(entry["seconds"] for entry in stages.values()),
            machine=this_machine(),
            stages=tuple(self._stage(name, entry) for name, entry in stages.items()),
            comparison=self._comparison(),
            sampling=(
                f"{drawing.candidates} candidates for each caption, guidance {drawing.guidance:g}, "
                f"temperature {drawing.temperature:g}, top-k {drawing.top_k or 'off'}, "
                f"top-p {'off' if drawing.top_p == 1 else drawing.top_p}"
            ),
        )

    def _captioned_report(self, findings: CaptionedFindings | SampleGroup) -> RunReport:
        """Return the report on captioned images."""
        stages = read_record(self.out)
        minutes = sum(entry["seconds"] for entry in stages.values()) / 60
        summary = (
            "An image tokenizer, a text-to-image transformer and a CLIP, trained from scratch on captioned images in "
            f"{minutes:.0f} minutes, drew the captions of images that were "
        )
        if isinstance(findings, SampleGroup):
            limits = ("No images were held out, so nothing is measured: samples may be memorised images.",)
            return replace(self._report(f"{summary}trained on."), samples=(findings,), limits=limits)
        return replace(
            self._report(f"{summary}held out."),
            figures=captioned_figures(findings),
            reconstruction=findings.reconstruction,
            reconstructed=findings.reconstructed,
            samples=(findings.samples,),
            limits=("The CLIP that ranked the samples also judges them, which favours its own choices.",),
        )

    def _scenes_report(
        self, findings: SceneFindings, reader: tuple[ReaderCheck, ...], evaluation: EvaluateScenes
    ) -> RunReport:
        """Return the report on rendered scenes."""
        stages = read_record(self.out)
        return replace(
            self._report(_summary(findings, sum(entry["seconds"] for entry in stages.values()))),
            figures=_figures(stages, findings),
            reconstruction=findings.reconstruction,
            reconstructed=findings.reconstructed,
            samples=findings.samples,
            composition=findings.composition,
            guidance=findings.guidance,
            reader=reader,
            level_titles=tuple(pair for pair in LEVEL_TITLES if pair[0] in evaluation.levels),
        )

    def _stage(self, name: str, entry: StageEntry) -> Stage:
        """Return the report's section on one stage; ``entry`` is the stage's record in ``stages.json``."""
        titles = {
            "text": "Text tokenizer",
            "tokenizer": "Image tokenizer",
            "clip": "CLIP",
            "transformer": "Transformer",
            "sampling": "Sampling, ranking and judging",
        }
        return Stage(
            name=name,
            title=titles[name],
            seconds=entry["seconds"],
            steps=entry.get("steps"),
            parameters=entry.get("parameters"),
            charts=training_charts(read_metrics_file(self.out / name / "metrics.jsonl"), CHARTED),
        )

    def _comparison(self) -> Comparison | None:
        """Return the measurements of several transformers, or None if the config does not name a file of them."""
        if self.config.compared is None:
            return None
        measured = parse_object(read_file(Path(find(self.config.compared))))
        contenders = tuple(
            Contender(one["name"], tuple(Figure(f["path"], f["label"], f["value"], f["kind"]) for f in one["figures"]))
            for one in measured["contenders"]
        )
        return Comparison(contenders, chosen=measured["chosen"], why=measured["why"])


def _count(data: Data, folder: Place | None) -> Counts:
    """Open a stage's data and count its training and held-out examples.

    ``folder`` keeps the list of the data's records, so that training need not index them again.
    """
    loader = data.open(folder, quiet=True)
    return Counts(loader.examples, loader.held_out)


CHARTED = ("loss", "psnr", "image_nll", "retrieval_top1", "codebook/perplexity", "perplexity", "usage")


def _check_reader(codec: ImageCodec, size: int, evaluation: EvaluateScenes) -> tuple[ReaderCheck, ...]:
    levels, seed = evaluation.levels, evaluation.seed + 10
    clean, blurred = check_reader(levels, size, READER_IMAGES, seed)
    through = check_reader_on(
        "tokenizer",
        "Through this demo’s own tokenizer",
        levels,
        size,
        READER_IMAGES,
        seed,
        lambda image, rng: codec.reconstruct(image[None])[0],
    )
    return clean, blurred, through


def _summary(findings: SceneFindings, seconds: float) -> str:
    """Return the report's first paragraph."""
    cells = [cell for cell in findings.composition.cells if cell.split == "held_out"]
    right = sum(cell.chosen.right for cell in cells) / max(sum(cell.chosen.count for cell in cells), 1)
    return (
        f"An image tokenizer, a text-to-image transformer and a CLIP, trained from scratch in {seconds / 60:.0f} "
        f"minutes, drew captions whose combinations never occurred in training; {100 * right:.0f} % of CLIP’s choices "
        "are right."
    )


def _figures(stages: dict[str, StageEntry], findings: SceneFindings) -> tuple[Figure, ...]:
    """Return the headline metrics of a demo on scenes."""
    clip, transformer = (stages[name]["metrics"] for name in ("clip", "transformer"))
    zero_shot = findings.zero_shot.value
    return (
        Figure(
            "clip.retrieval_top1",
            "CLIP finds the caption",
            clip.get("evaluation/retrieval_top1"),
            "percent",
            "of a held-out image among the captions of its batch",
        ),
        Figure("clip.zero_shot", "CLIP names the scene", zero_shot, "percent", "level 1, among all of its scenes"),
        Figure(
            "transformer.image_nll",
            "Nats per code",
            transformer.get("evaluation/image_nll"),
            "nats",
            "of held-out images, given their captions",
        ),
    )
