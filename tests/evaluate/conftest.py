"""A report with content in every section, made of rendered scenes and invented figures."""

import json

import numpy as np
import pytest

from dalle_jax.evaluate.metrics.composition import Composition, evaluation_captions, measure_cell
from dalle_jax.evaluate.metrics.reconstruction import measure_reconstruction
from dalle_jax.evaluate.metrics.scene_reader import ReaderCheck
from dalle_jax.evaluate.metrics.shares import Share
from dalle_jax.evaluate.report.curves import read_metrics, training_charts
from dalle_jax.evaluate.report.machine import Machine
from dalle_jax.evaluate.report.run_report import Comparison, Contender, Figure, RunReport, Stage
from dalle_jax.evaluate.suites.findings import (
    Candidate,
    EditedImages,
    EditFindings,
    EditMeasure,
    GuidancePoint,
    ReconstructedImage,
    Sample,
    SampleGroup,
)
from dalle_jax.scenes.grammar import parse
from dalle_jax.scenes.rendering import render

SIZE = 32


def drawn(captions, rng):
    """Render a scene for each caption."""
    return np.stack([render(parse(caption), SIZE, rng) for caption in captions])


def candidates(captions, right_share, count, rng):
    """Return images [P M H W 3], a share of them right, and scores [P M] that prefer right images most of the time."""
    true = rng.random((len(captions), count)) < right_share
    others = [captions[(i + 1) % len(captions)] for i in range(len(captions))]
    rows = zip(captions, others, true, strict=True)
    images = np.stack([drawn([mine if t else other for t in row], rng) for mine, other, row in rows])
    return images, true + 0.6 * rng.normal(size=true.shape)


def curves(start, end, steps, rng, log_every=10):
    """Return the lines of a metrics.jsonl with a loss that falls from ``start`` to ``end``."""
    lines = []
    for step in range(log_every, steps + 1, log_every):
        loss = end + (start - end) * np.exp(-5 * step / steps)
        record = {
            "step": step,
            "train/loss": loss * (1 + 0.03 * rng.normal()),
            "train/accuracy": 1 - loss / start / 1.1,
        }
        lines.append(json.dumps(record))
        if step % (10 * log_every) == 0:
            lines.append(
                json.dumps({"step": step, "evaluation/loss": loss * 1.05, "evaluation/accuracy": 1 - loss / start})
            )
    return "\n".join(lines)


def example_report(captions_per_cell=3, count=4, levels=(1, 2)):
    """Return a report that is determined by the arguments."""
    rng = np.random.default_rng(0)
    cells, groups = [], []
    for level in levels:
        for split, share in (("seen", 0.8), ("held_out", 0.5)):
            captions = evaluation_captions(level, split, captions_per_cell, seed=7)
            images, scores = candidates(captions, share, count, rng)
            cell, judged = measure_cell(level, split, captions, images, scores)
            cells.append(cell)
            samples = tuple(
                Sample(
                    caption=said.caption,
                    first=Candidate(mine[0], said.first.right, tuple(said.first.parts)),
                    chosen=Candidate(
                        mine[said.chosen_index], said.chosen.right, tuple(said.chosen.parts), said.chosen_index
                    ),
                    chosen_of=cell.chosen_of,
                )
                for said, mine in list(zip(judged, images, strict=True))[:4]
            )
            groups.append(SampleGroup(f"Level {level}, {split.replace('_', ' ')}", samples, level, split))
    composition = Composition(tuple(cells))
    shown = [evaluation_captions(level, "seen", captions_per_cell, seed=9) for level in levels]
    captions = [caption for listed in shown for caption in listed]
    originals = drawn(captions, rng)
    noise = rng.normal(scale=6, size=originals.shape)
    copies = np.clip(originals + noise, 0, 255).astype(np.uint8)
    reconstruction = measure_reconstruction(
        originals, copies, captions, [k for k in levels for _ in range(captions_per_cell)]
    )
    trained = tuple(
        Stage(
            name, title, seconds, steps, parameters, training_charts(read_metrics(curves(start, end, steps, rng))), note
        )
        for name, title, seconds, steps, parameters, start, end, note in (
            ("tokenizer", "Image tokenizer (VQ-VAE)", 142.0, 1200, 1_240_000, 0.2, 0.004, "Codes of 8x8, 256 of them."),
            ("transformer", "Transformer", 409.5, 2400, 4_810_000, 5.5, 0.9, ""),
            ("clip", "CLIP", 95.2, 800, 2_100_000, 4.2, 0.3, ""),
        )
    )
    return RunReport(
        title="dalle_jax: captions to ranked images",
        summary="An image tokenizer, a transformer and a CLIP, trained from nothing in a quarter of an hour.",
        command="python -m dalle_jax demo --out runs/demo",
        seed=7,
        config_text="task = @TokenizeImages\ntask.model.width = 64  # <not html> & so on\n",
        wall_seconds=802.4,
        machine=Machine("Some CPU @ 2.60GHz", 2, 8, 15.6, None, "Linux x86_64", {"python": "3.11.7", "jax": "0.10.2"}),
        stages=(*trained, Stage("sampling", "Sampling and judging", 121.7)),
        figures=(
            Figure("transformer.image_nll", "Image codes", 1.234, "nats", "per code, held-out images"),
            Figure("clip.retrieval_top1", "CLIP retrieval", 0.914, "percent", "top-1 among 100 captions"),
        ),
        comparison=Comparison(
            contenders=tuple(
                Contender(
                    name,
                    (
                        Figure("image_nll", "Image NLL per code", nll, "nats"),
                        Figure("step_seconds", "A step", seconds, "seconds"),
                        Figure("parameters", "Parameters", parameters, "count"),
                    ),
                )
                for name, nll, seconds, parameters in (
                    ("dalle", 1.234, 0.171, 4.81e6),
                    ("dalle_bart", 1.31, 0.183, 5.2e6),
                )
            ),
            chosen="dalle",
            why="Trainable for the same time, dalle predicts held-out codes better, so the demo runs it.",
        ),
        reconstruction=reconstruction,
        reconstructed=tuple(
            ReconstructedImage(a, b, c) for a, b, c in list(zip(originals, copies, captions, strict=True))[:8]
        ),
        sampling="temperature 1, top-k 64, guidance 2",
        samples=tuple(groups),
        composition=composition,
        guidance=tuple(GuidancePoint(scale, composition) for scale in (1.0, 2.5, 4.0)),
        edits=(
            EditFindings(
                "vary",
                "Variations",
                "Cases <of> two images.",
                80,
                (
                    EditMeasure("same_attributes", "Same colour and shape", Share(78, 80), "strength 0.75"),
                    EditMeasure("without_text.same_attributes", "Same colour and shape", Share(80, 80)),
                    EditMeasure("codes_returned", "Codes that come back", 0.9975),
                ),
                (EditedImages("a red circle", (originals[0], copies[0]), True),),
            ),
        ),
        reader=(
            ReaderCheck("clean", "Clean", Share(1998, 2000), Share(4, 2000)),
            ReaderCheck("blurred", "Blurred and noised", Share(1962, 2000), Share(11, 2000)),
        ),
        limits=("Only the scenes it was trained on: a caption outside the grammar gives an image of no meaning.",),
        level_titles=((1, "one object"), (2, "two objects and a relation")),
    )


@pytest.fixture(scope="session")
def report():
    return example_report()
