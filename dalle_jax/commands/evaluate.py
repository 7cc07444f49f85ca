"""``evaluate CONFIG --model DIR``: run the evaluations of a config on a trained pipeline and write JSON."""

import argparse
from collections.abc import Iterator
from functools import cache
from typing import cast

from dalle_jax import storage
from dalle_jax.config.bind import load
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.report.write_report import write_metrics
from dalle_jax.evaluate.suites.evaluate_captioned import CaptionedBatch, EvaluateCaptioned, evaluate_captioned
from dalle_jax.evaluate.suites.evaluate_scenes import EvaluateScenes, evaluate_scenes
from dalle_jax.pipelines.load.pipeline import AnyPipeline, load_pipeline
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.pipelines.unclip import Unclip
from dalle_jax.runs import EvaluateRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("config", help="a config file, such as configs/demo/evaluation.gin")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="set one field of the config")
    parser.add_argument(
        "--model",
        type=storage.reachable,
        required=True,
        help="the folder of a demo, such as runs/demo, or of a trained transformer",
    )
    parser.add_argument(
        "--out", type=storage.reachable, help="the JSON file to write (default: evaluation.json in the model's folder)"
    )


def run(args: argparse.Namespace) -> int:
    """Run each evaluation and write the metrics of all as JSON, by the evaluation's name."""
    run: EvaluateRun = load(args.config, EvaluateRun, args.set)
    pipeline_of = cache(lambda batch: load_pipeline(args.model, batch=batch))  # compiled once per batch size
    out = args.out or args.model / "evaluation.json"
    figures = {}
    for name, config in run.evaluations.items():
        print(f"evaluation {name}", flush=True)
        figures[name] = _figures(pipeline_of(config.drawing.batch), run, config)
    write_metrics(out, figures)
    print(out)
    return 0


def held_out_batches(run: EvaluateRun, config: EvaluateCaptioned) -> Iterator[CaptionedBatch]:
    """Yield the held-out examples of a run's data, ``config.among`` at a time. Raises UserError if there are none."""
    assert run.data is not None
    opened = run.data.with_batch_size(config.among).open()
    if not opened.held_out:
        raise UserError(
            f"data.evaluation: expected held-out images to measure on, got none among {opened.examples:,} images; "
            "hold some out before training, for example with data.evaluation = @HeldOut and data.evaluation.count = 1"
        )
    return cast("Iterator[CaptionedBatch]", opened.evaluation_batches())


def _figures(pipeline: AnyPipeline, run: EvaluateRun, config: EvaluateScenes | EvaluateCaptioned) -> dict[str, object]:
    def say(line: str) -> None:
        print(line, flush=True)

    clip = pipeline.require_ranker()
    if isinstance(config, EvaluateCaptioned):
        if not isinstance(pipeline, TextToImage):
            raise UserError(
                "evaluations: expected @EvaluateScenes for a diffusion model, got @EvaluateCaptioned, "
                "which measures a transformer's likelihood"
            )
        batches = held_out_batches(run, config)
        return evaluate_captioned(pipeline, pipeline.codec, clip, pipeline.likelihood, config, batches, say).to_json()
    codec = pipeline.codec if isinstance(pipeline, TextToImage | Unclip) else None
    return evaluate_scenes(pipeline, codec, clip, config, say).to_json()
