"""``demo-unclip``: train CLIP, prior and decoder of DALL·E 2 on rendered scenes; sample, measure and report."""

import argparse
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from dalle_jax import storage
from dalle_jax.commands.demo_stages import is_within_a_stage
from dalle_jax.commands.stage_record import StageEntry, add_seconds, read_record
from dalle_jax.commands.text_tokenizer import train_model
from dalle_jax.commands.train import train_stage
from dalle_jax.config.bind import load
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.evaluate.metrics.composition import SPLITS, Cell, evaluation_captions, measure_cell
from dalle_jax.evaluate.metrics.linear_probe import probe_r2
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
from dalle_jax.evaluate.suites.findings import EditFindings
from dalle_jax.folder_lock import locked
from dalle_jax.pipelines.load.models import PipelineFile, absolute_needs, stage_folders
from dalle_jax.pipelines.load.unclip_pipeline import load_unclip
from dalle_jax.pipelines.unclip import Unclip
from dalle_jax.runs import UNCLIP_STAGES, EvaluateRun, TextTokenizerRun, TrainRun, UnclipDemoRun
from dalle_jax.sampling.autoregressive import image_keys
from dalle_jax.scenes import grammar
from dalle_jax.scenes.perceive import perceive
from dalle_jax.scenes.rendering import render as render_scene
from dalle_jax.storage import Place, write_bytes

DEFAULT = "demo_unclip/demo.gin"
PREFIX = "stages."
PROBE_IMAGES = 900
"""Images of level 1 from whose embeddings positions are read; two thirds of them fit the probe."""
PROBED = "level 1; the centre of the bounding box, whose height also depends on the shape"
TITLES = {
    "text": "Text tokenizer",
    "tokenizer": "Image tokenizer",
    "clip": "CLIP",
    "prior": "Prior",
    "decoder": "Decoder",
    "sampling": "Sampling, ranking and judging",
}
CHARTED = ("loss", "psnr", "retrieval_top1", "read_nll", "pair_cosine", "prior_cosine", "text_cosine", "nll_clip",
           "nll_text", "nll_free")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("config", nargs="?", default=DEFAULT, help=f"a demo's config (default: configs/{DEFAULT})")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help=f"set one field of the config; stages.NAME.PATH sets a field of the stage {', '.join(UNCLIP_STAGES)}",
    )
    parser.add_argument(
        "--out", type=storage.reachable, default=Path("runs/demo-unclip"), help="the folder to write to"
    )


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
        config: UnclipDemoRun = load(path, UnclipDemoRun, own)
        by_stage = _by_stage([one for one in sets if one not in own])
        demo = storage.place(config.demo)
        reused = (demo / "text.model").is_file() and (demo / "tokenizer" / "model.gin").is_file()
        base = demo if reused else out
        words, tokenizer, clip = base / "text.model", base / "tokenizer", out / "clip"
        fixed = {
            "tokenizer": {},
            "clip": {"align.captions.file": words, "align.image_tokenizer": tokenizer},
            "prior": {"captions.file": words, "clip": clip},
            "decoder": {"captions.file": words, "image_tokenizer": tokenizer, "clip": clip},
        }
        text = load(config.stages["text"], TextTokenizerRun, by_stage["text"], f"{PREFIX}text.")
        stages = {}
        for name, places in fixed.items():
            ours = [f"task.{field}='{place}'" for field, place in places.items()]
            stages[name] = load(config.stages[name], TrainRun, by_stage[name] + ours, f"{PREFIX}{name}.")
        if reused:
            del stages["tokenizer"]
        run: EvaluateRun = load(
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
        needs = {name: name for name in ("decoder", "prior", "clip")}
        reused = absolute_needs(image_tokenizer=str(storage.place(self.config.demo) / "tokenizer"))
        tokenizer = {"image_tokenizer": "tokenizer"} if "tokenizer" in self.stages else reused
        return PipelineFile(needs | tokenizer, self.config.steps)

    def report(self) -> tuple[Place, Place]:
        """Sample, evaluate, and write ``report.html`` and ``metrics.json``; return their paths."""
        began = time.monotonic()
        evaluation, batch = self.evaluation, self.evaluation.drawing.batch
        needs, steps = stage_folders(self.out).needs, self.config.steps
        unclip = load_unclip(needs, steps=steps, batch=batch)
        findings = evaluate_scenes(unclip, unclip.codec, unclip.ranker, evaluation, say)
        rows: list[tuple[str, str, Sequence[Cell]]] = [
            ("vectors.true", "the true image's vector", _true_vector_cells(unclip, evaluation))
        ]
        no_prior = {name: one for name, one in needs.items() if name != "prior"}
        without = load_unclip(no_prior, steps=steps, batch=batch)
        rows.append(("vectors.text", "the text's vector, no prior", _first_cells(without, evaluation)))
        caption = load_unclip(needs, sees="caption", steps=steps, batch=batch)
        rows.append(("glide", "the caption alone (GLIDE's mode)", _first_cells(caption, evaluation)))
        probes = _probes(unclip, evaluation.seed)
        painted = evaluate_inpainting(unclip, self.config.inpainting, say)
        edits = (*painted, *evaluate_edits(unclip, self.config.edits, say))
        add_seconds(self.out, "sampling", time.monotonic() - began)
        figures = _figures(read_record(self.out), findings, rows)
        return write_report(self._report(findings, (*figures, *probes), edits), self.out)

    def _report(
        self, findings: SceneFindings, figures: tuple[Figure, ...], edits: tuple[EditFindings, ...]
    ) -> RunReport:
        record = read_record(self.out)
        seconds = sum(entry["seconds"] for entry in record.values())
        drawing = self.evaluation.drawing
        return RunReport(
            title=self.config.title,
            summary=(
                f"A CLIP, a prior and a decoder, trained from scratch in {seconds / 60:.0f} minutes, drew captions "
                "from the prior's image embedding alone. The decoder is diffusion on the vectors of an image "
                "tokenizer's codes; DALL·E 2's is diffusion on pixels."
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


def _first_cells(unclip: Unclip, evaluation: EvaluateScenes) -> list[Cell]:
    """Judge one candidate of each caption of the evaluation."""
    cells = []
    for level in evaluation.levels:
        for split in SPLITS:
            captions = evaluation_captions(level, split, evaluation.captions, evaluation.seed)
            drawing = replace(evaluation.drawing, candidates=1)
            drawn = unclip.draw(drawing.requests(captions, evaluation.seed))
            images = np.stack([one.candidates for one in drawn])
            cells.append(measure_cell(level, split, captions, images, np.zeros(images.shape[:2], np.float32))[0])
    return cells


def _true_vector_cells(unclip: Unclip, evaluation: EvaluateScenes) -> list[Cell]:
    """Judge an image decoded from the CLIP embedding of a rendered image of each caption: a perfect prior."""
    cells = []
    for level in evaluation.levels:
        for split in SPLITS:
            captions = evaluation_captions(level, split, evaluation.captions, evaluation.seed)
            rng = np.random.default_rng((evaluation.seed, 3, level))
            rendered = np.stack([render_scene(grammar.parse(one), unclip.side, rng) for one in captions])
            vectors, seeds = unclip.embedder.image_vectors(rendered), evaluation.seed + np.arange(len(captions))
            keys = image_keys(jnp.asarray(seeds, jnp.uint32), 1)[:, 0]
            images = unclip.decode(vectors, keys, evaluation.drawing.guidance)[:, None]  # [P 1 H W 3]
            cells.append(measure_cell(level, split, captions, images, np.zeros(images.shape[:2], np.float32))[0])
    return cells


def _probes(unclip: Unclip, seed: int) -> tuple[Figure, ...]:
    """Measure how well positions, which no caption of level 1 names, are read from image and text embeddings."""
    rng = np.random.default_rng((seed, 4))
    images: list[np.ndarray] = []
    captions: list[str] = []
    places: list[tuple[float, float]] = []
    while len(images) < PROBE_IMAGES:
        scene = grammar.sample_scene(1, rng, "validation")
        image = render_scene(scene, unclip.side, rng)
        objects = perceive(image).objects
        if len(objects) == 1:
            images.append(image)
            captions.append(grammar.caption(scene, rng))
            places.append((objects[0].x, objects[0].y))
    vectors = unclip.embedder.image_vectors(np.stack(images)), unclip.embedder.text_vectors(captions)
    found = [probe_r2(one, np.array(places), PROBE_IMAGES * 2 // 3) for one in vectors]
    return tuple(
        Figure(f"clip.probe.{kind}.{axis}", f"R² of {axis} from the {kind}'s vector", float(value), "number", PROBED)
        for kind, values in zip(("image", "text"), found, strict=True)
        for axis, value in zip("xy", values, strict=True)
    )


def _figures(
    record: dict[str, StageEntry], findings: SceneFindings, rows: list[tuple[str, str, Sequence[Cell]]]
) -> tuple[Figure, ...]:
    """Return the figures beside the table of composition: the decoder's other inputs, the prior and the CLIP."""
    clip, prior = record["clip"]["metrics"], record["prior"]["metrics"]
    cosines: tuple[tuple[str, str, float | None, Format], ...] = (
        ("clip.retrieval_top1", "CLIP finds the caption", clip.get("evaluation/retrieval_top1"), "percent"),
        ("clip.pair_cosine", "Cosine of an image and its caption", clip.get("evaluation/pair_cosine"), "number"),
        ("prior.cosine", "Cosine of prior and image", prior.get("evaluation/prior_cosine"), "number"),
        ("prior.text_cosine", "Cosine of text and image", prior.get("evaluation/text_cosine"), "number"),
    )
    figures = [Figure(path, label, value, kind) for path, label, value, kind in cosines]
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
