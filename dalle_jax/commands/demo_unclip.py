"""``demo-unclip``: train the networks of DALL·E 2 on rendered scenes; sample, measure and report."""

import argparse
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dalle_jax import storage
from dalle_jax.commands.demo_stages import is_within_a_stage
from dalle_jax.commands.flags.demo_flags import add_demo_flags
from dalle_jax.commands.stage_record import StageEntry, add_seconds, read_record
from dalle_jax.commands.text_tokenizer import train_model
from dalle_jax.commands.train import train_stage
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.evaluate.metrics.composition import Cell
from dalle_jax.evaluate.report.curves import read_metrics_file, training_charts
from dalle_jax.evaluate.report.machine import this_machine
from dalle_jax.evaluate.report.run_report import Figure, Format, RunReport, Stage
from dalle_jax.evaluate.report.write_report import write_report
from dalle_jax.evaluate.suites.evaluate_edits import evaluate_edits
from dalle_jax.evaluate.suites.evaluate_inpainting import evaluate_inpainting
from dalle_jax.evaluate.suites.evaluate_scenes import (
    LEVEL_TITLES,
    SPLIT_TITLES,
    EvaluateScenes,
    SceneFindings,
    evaluate_scenes,
)
from dalle_jax.evaluate.suites.evaluate_vectors import (
    PositionProbe,
    first_cells,
    probe_positions,
    true_vector_cells,
)
from dalle_jax.evaluate.suites.findings import EditFindings
from dalle_jax.folder_lock import locked
from dalle_jax.pipelines.embedding_pipeline import Sees
from dalle_jax.pipelines.load.models import PipelineFile, absolute_needs, stage_folders
from dalle_jax.pipelines.load.pixel_unclip_pipeline import is_pixel_decoder, load_pixel_unclip
from dalle_jax.pipelines.load.unclip_pipeline import load_unclip
from dalle_jax.pipelines.pixel_unclip import PixelUnclip
from dalle_jax.pipelines.unclip import Unclip
from dalle_jax.runs import UNCLIP_STAGES, AnyTask, EvaluateRun, TextTokenizerRun, TrainRun, UnclipDemoRun, load_run
from dalle_jax.storage import Place, write_bytes
from dalle_jax.tasks.align_readable_images import AlignReadableImages
from dalle_jax.tasks.align_text_images import AlignTextImages
from dalle_jax.tasks.denoise_codes import DenoiseCodes
from dalle_jax.tasks.denoise_images import DenoiseImages
from dalle_jax.tasks.predict_embeddings import PredictEmbeddings

DEFAULT = "demo_unclip/demo.gin"
PREFIX = "stages."
TRAINED = tuple(name for name in UNCLIP_STAGES if name not in ("text", "evaluation"))
"""The stages that train a network, in order."""
PROBED = "level 1; the centre of the bounding box, whose height also depends on the shape"
TITLES = {
    "text": "Text tokenizer",
    "tokenizer": "Image tokenizer",
    "clip": "CLIP",
    "prior": "Prior",
    "decoder": "Decoder",
    "upsampler": "Upsampler",
    "sampling": "Sampling, ranking and judging",
}
CHARTED = ("loss", "psnr", "retrieval_top1", "read_nll", "pair_cosine", "prior_cosine", "text_cosine", "nll_clip",
           "nll_text", "nll_free", "mse", "mse_bicubic")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    fields = f"stages.NAME.PATH sets a field of the stage {', '.join(UNCLIP_STAGES)}"
    add_demo_flags(parser, DEFAULT, fields, "runs/demo-unclip")


def run(args: argparse.Namespace) -> int:
    """Run the stages that are not finished, then evaluate and write the report."""
    demo = UnclipDemo.read(args.config, args.set, args.out)
    with locked(args.out, "demo-unclip"):
        if not demo.train():
            return 0
        page, _ = demo.report()
    say(f"the report is in {page}")
    return 0


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"[demo-unclip] {text}", flush=True)


@dataclass(frozen=True)
class DemoFolders:
    """The files that the stages read: the text tokenizer, the image tokenizer, and the CLIP."""

    words: Place
    tokenizer: Place
    clip: Place

    def given_to(self, run: TrainRun) -> TrainRun:
        """Return a stage's config that reads these files."""
        return replace(run, task=self._task(run.task))

    def _task(self, task: AnyTask) -> AnyTask:
        if isinstance(task, AlignReadableImages):
            align = self._task(replace(task.align, image_tokenizer=str(self.tokenizer)))
            assert isinstance(align, AlignTextImages)
            return replace(task, align=align)
        if not isinstance(task, AlignTextImages | PredictEmbeddings | DenoiseCodes | DenoiseImages):
            return task
        task = replace(task, captions=replace(task.captions, file=str(self.words)))
        if not isinstance(task, PredictEmbeddings) and task.image_tokenizer is not None:
            task = replace(task, image_tokenizer=str(self.tokenizer))
        return task if isinstance(task, AlignTextImages) else replace(task, clip=str(self.clip))


@dataclass(frozen=True)
class UnclipDemo:
    """An unCLIP demo and its folder: the configs of its stages, and the command that repeats it.

    ``text`` is None, and ``stages`` has no tokenizer, if ``config.demo`` holds both tokenizers.
    """

    config: UnclipDemoRun
    out: Place
    text: TextTokenizerRun | None
    stages: dict[str, TrainRun]
    evaluation: EvaluateScenes
    command: str

    @classmethod
    def read(cls, path: str, sets: list[str], out: Place) -> "UnclipDemo":
        """Read all configs, so that every mistake in them is found before the first stage."""
        own = [one for one in sets if not is_within_a_stage(one)]
        config: UnclipDemoRun = load_run(path, UnclipDemoRun, own)
        by_stage = _by_stage([one for one in sets if one not in own])
        reused = _finished_demo(config)
        base = reused or out
        folders = DemoFolders(base / "text.model", base / "tokenizer", out / "clip")
        text = load_run(config.stages["text"], TextTokenizerRun, by_stage["text"], f"{PREFIX}text.")
        stages = {
            name: folders.given_to(load_run(config.stages[name], TrainRun, by_stage[name], f"{PREFIX}{name}."))
            for name in TRAINED
            if name in config.stages
        }
        _check_stages(stages, reused)
        if reused:
            stages.pop("tokenizer", None)
        run: EvaluateRun = load_run(
            config.stages["evaluation"], EvaluateRun, by_stage["evaluation"], f"{PREFIX}evaluation."
        )
        evaluation = run.single()
        if not isinstance(evaluation, EvaluateScenes):
            raise UserError(f"{PREFIX}evaluation: expected @EvaluateScenes, got @{type(evaluation).__name__}")
        flags = [word for one in sets for word in ("--set", one)]
        command = shlex.join(["python", "-m", "dalle_jax", "demo-unclip", path, *flags, "--out", str(out)])
        return cls(config, out, None if reused else text, stages, evaluation, command)

    def train(self) -> bool:
        """Train the stages in order, each from its newest checkpoint. Return False if the user interrupted one."""
        words = self.out / "text.model"
        if self.text is None:
            say(f"text tokenizer and image tokenizer are those of {self.config.demo}")
        elif not words.exists():
            began = time.monotonic()
            write_bytes(words, train_model(self.text)[0])
            add_seconds(self.out, "text", time.monotonic() - began)
        for name, stage in self.stages.items():
            say(f"training the {name}: {stage.trainer.steps} steps of {stage.data.batch_size}")
            began = time.monotonic()
            result = train_stage(stage, self.out / name, command="demo-unclip")
            if result.interrupted:
                return False
            add_seconds(self.out, name, time.monotonic() - began, result)
        write_bytes(self.out / "pipeline.gin", render(self.pipeline_file()).encode())
        return True

    def pipeline_file(self) -> PipelineFile:
        """Return the folders of the pipeline's models; the image tokenizer of another demo has an absolute one."""
        needs: dict[str, str] = {
            name: name for name in ("decoder", "prior", "clip", "upsampler") if name in self.stages
        }
        decoder = self.stages["decoder"].task
        assert isinstance(decoder, DenoiseCodes | DenoiseImages)
        if "tokenizer" in self.stages and decoder.image_tokenizer is not None:
            needs |= {"image_tokenizer": "tokenizer"}
        else:
            needs |= absolute_needs(image_tokenizer=decoder.image_tokenizer)
        return PipelineFile(needs, self.config.steps)

    def report(self) -> tuple[Place, Place]:
        """Sample, evaluate, and write ``report.html`` and ``metrics.json``; return their paths."""
        began = time.monotonic()
        evaluation, batch = self.evaluation, self.evaluation.drawing.batch
        needs, steps = stage_folders(self.out).needs, self.config.steps
        unclip = _load(needs, steps, batch)
        codec = unclip.codec if isinstance(unclip, Unclip) else None
        findings = evaluate_scenes(unclip, codec, unclip.ranker, evaluation, say)
        rows: list[tuple[str, str, Sequence[Cell]]] = [
            ("vectors.true", "the true image's vector", true_vector_cells(unclip, evaluation))
        ]
        no_prior = {name: one for name, one in needs.items() if name != "prior"}
        without = _load(no_prior, steps, batch)
        rows.append(("vectors.text", "the text's vector, no prior", first_cells(without, evaluation)))
        caption = _load(needs, steps, batch, sees="caption")
        rows.append(("glide", "the caption alone (GLIDE's mode)", first_cells(caption, evaluation)))
        probe = probe_positions(unclip.embedder, unclip.embedder.config.image_size, evaluation.seed)
        painted = evaluate_inpainting(unclip, self.config.inpainting, say)
        edits = (*painted, *evaluate_edits(unclip, self.config.edits, say))
        add_seconds(self.out, "sampling", time.monotonic() - began)
        figures = (*_figures(read_record(self.out), findings, rows), *_probe_figures(probe))
        return write_report(self._report(findings, figures, edits), self.out)

    def _report(
        self, findings: SceneFindings, figures: tuple[Figure, ...], edits: tuple[EditFindings, ...]
    ) -> RunReport:
        record = read_record(self.out)
        seconds = sum(entry["seconds"] for entry in record.values())
        drawing = self.evaluation.drawing
        if isinstance(self.stages["decoder"].task, DenoiseCodes):
            kind = "diffusion on the vectors of an image tokenizer's codes; DALL·E 2's is diffusion on pixels"
        else:
            kind = "diffusion on pixels, as DALL·E 2's" + (", and an upsampler" if "upsampler" in self.stages else "")
        return RunReport(
            title=self.config.title,
            summary=(
                f"A CLIP, a prior and a decoder, trained from scratch in {seconds / 60:.0f} minutes, drew captions "
                f"from the prior's image embedding alone. The decoder is {kind}."
            ),
            command=self.command,
            seed=self.stages["decoder"].trainer.seed,
            config_text="\n".join(f"# {name}\n{render(config)}" for name, config in self.stages.items()),
            wall_seconds=seconds,
            machine=this_machine(),
            stages=tuple(self._stage(name, entry) for name, entry in record.items()),
            figures=figures,
            reconstruction=findings.reconstruction,
            reconstructed=findings.reconstructed,
            samples=findings.samples,
            composition=findings.composition,
            guidance=findings.guidance,
            edits=edits,
            level_titles=tuple(pair for pair in LEVEL_TITLES if pair[0] in self.evaluation.levels),
            limits=("The CLIP that ranked the samples also embeds their captions, which favours its own choices.",),
            sampling=(
                f"{drawing.candidates} candidates for each caption, guidance {drawing.guidance:g}, "
                f"{self.config.steps} steps of the decoder"
            ),
        )

    def _stage(self, name: str, entry: StageEntry) -> Stage:
        """Return the report's section on one stage, from its entry in ``stages.json``."""
        charts = training_charts(read_metrics_file(self.out / name / "metrics.jsonl"), CHARTED)
        return Stage(name, TITLES[name], entry["seconds"], entry.get("steps"), entry.get("parameters"), charts)


def _by_stage(sets: Sequence[str]) -> dict[str, list[str]]:
    """Group ``--set stages.NAME.PATH=VALUE`` by stage, as the fields of that stage."""
    found: dict[str, list[str]] = {name: [] for name in UNCLIP_STAGES}
    for one in sets:
        stage, _, field = one.removeprefix(PREFIX).partition(".")
        if not one.startswith(PREFIX) or stage not in found:
            names = ", ".join(UNCLIP_STAGES)
            raise UserError(f"--set {one}: expected stages.NAME.PATH=VALUE with NAME of {names}")
        found[stage].append(field)
    return found


def _finished_demo(config: UnclipDemoRun) -> Place | None:
    """Return the folder of the demo that is reused, or None if it has no text tokenizer or no image tokenizer."""
    if config.demo is None:
        return None
    demo = storage.place(config.demo)
    return demo if (demo / "text.model").is_file() and (demo / "tokenizer" / "model.gin").is_file() else None


def _check_stages(stages: dict[str, TrainRun], reused: Place | None) -> None:
    """Raise UserError for stages that do not fit each other."""
    decoder = stages["decoder"].task
    if not isinstance(decoder, DenoiseCodes | DenoiseImages):
        raise UserError(f"{PREFIX}decoder: expected @DenoiseCodes or @DenoiseImages, got @{type(decoder).__name__}")
    if isinstance(decoder, DenoiseCodes) and "upsampler" in stages:
        raise UserError(f"{PREFIX}upsampler: expected none for a decoder of codes, got one")
    if decoder.image_tokenizer is not None and reused is None and "tokenizer" not in stages:
        raise UserError(f"{PREFIX}tokenizer: expected the config of the image tokenizer that the decoder reads")


def _load(needs: Mapping[str, str], steps: int, batch: int, sees: Sees = "embedding") -> Unclip | PixelUnclip:
    if is_pixel_decoder(storage.place(needs["decoder"])):
        return load_pixel_unclip(needs, sees=sees, steps=steps, batch=batch)
    return load_unclip(needs, sees=sees, steps=steps, batch=batch)


def _probe_figures(probe: PositionProbe) -> tuple[Figure, ...]:
    return tuple(
        Figure(f"clip.probe.{kind}.{axis}", f"R² of {axis} from the {kind}'s vector", value, "number", PROBED)
        for kind, values in (("image", probe.image), ("text", probe.text))
        for axis, value in zip("xy", values, strict=True)
    )


def _figures(
    record: dict[str, StageEntry], findings: SceneFindings, rows: list[tuple[str, str, Sequence[Cell]]]
) -> tuple[Figure, ...]:
    """Return the figures beside the table of composition: the decoder's other inputs, the other networks."""
    clip, prior = record["clip"]["metrics"], record["prior"]["metrics"]
    cosines: tuple[tuple[str, str, float | None, Format], ...] = (
        ("clip.retrieval_top1", "CLIP finds the caption", clip.get("evaluation/retrieval_top1"), "percent"),
        ("clip.pair_cosine", "Cosine of an image and its caption", clip.get("evaluation/pair_cosine"), "number"),
        ("prior.cosine", "Cosine of prior and image", prior.get("evaluation/prior_cosine"), "number"),
        ("prior.text_cosine", "Cosine of text and image", prior.get("evaluation/text_cosine"), "number"),
    )
    upsampler = record["upsampler"]["metrics"] if "upsampler" in record else {}
    errors = {"mse": "Upsampler's error of x0 at high noise", "mse_bicubic": "Error of bicubic enlargement"}
    figures = [Figure(path, label, value, kind) for path, label, value, kind in cosines]
    figures += [
        Figure(f"upsampler.{key}", label, upsampler.get(f"evaluation/{key}"), "number")
        for key, label in errors.items()
        if upsampler
    ]
    figures.append(
        Figure("clip.zero_shot", "CLIP names the scene", findings.zero_shot.value, "percent", "level 1, of all scenes")
    )
    for path, label, cells in rows:
        figures += [
            Figure(
                f"{path}.level_{cell.level}.{cell.split}.first",
                f"Right from {label}",
                cell.first.value,
                "percent",
                f"level {cell.level}, {SPLIT_TITLES[cell.split]}",
            )
            for cell in cells
        ]
    return tuple(figures)
