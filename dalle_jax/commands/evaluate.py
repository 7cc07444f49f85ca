"""``evaluate CONFIG --model DIR``: evaluate a trained pipeline on scene captions or held-out images; writes JSON."""

import argparse
from collections.abc import Iterator
from typing import cast

from dalle_jax import storage
from dalle_jax.config.bind import load
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.report.write_report import write_metrics
from dalle_jax.evaluate.suites.evaluate_captioned import CaptionedBatch, EvaluateCaptioned, evaluate_captioned
from dalle_jax.evaluate.suites.evaluate_scenes import evaluate_scenes
from dalle_jax.pipelines.autoregressive import Pipeline
from dalle_jax.pipelines.load_pipeline import load_pipeline
from dalle_jax.runs import EvaluateRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("config", help="a config file, such as configs/demo/evaluation.gin")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="set one field of the config")
    parser.add_argument(
        "--model", type=storage.reachable, required=True, help="a folder with pipeline.gin, such as runs/demo"
    )
    parser.add_argument(
        "--out", type=storage.reachable, help="the JSON file to write (default: evaluation.json in the model's folder)"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and write the figures."""
    run: EvaluateRun = load(args.config, EvaluateRun, args.set)
    pipeline = load_pipeline(args.model, batch=run.evaluation.drawing.batch)
    out = args.out or args.model / "evaluation.json"
    write_metrics(out, _figures(pipeline, run))
    print(out)
    return 0


def held_out_batches(run: EvaluateRun, config: EvaluateCaptioned) -> Iterator[CaptionedBatch]:
    """Yield the held-out examples of a run's data, ``config.among`` at a time; raise UserError where there are none."""
    assert run.data is not None
    opened = run.data.of(config.among).open()
    if not opened.held_out:
        raise UserError(
            f"data.evaluation: expected images that are held out, to measure on, got none of {opened.examples:,}; hold "
            "some out before training, such as with data.evaluation = @HeldOut and data.evaluation.count = 1"
        )
    return cast("Iterator[CaptionedBatch]", opened.evaluation_batches())


def _figures(pipeline: Pipeline, run: EvaluateRun) -> dict[str, object]:
    def say(line: str) -> None:
        print(line, flush=True)

    config = run.evaluation
    if isinstance(config, EvaluateCaptioned):
        return evaluate_captioned(pipeline, config, held_out_batches(run, config), say).to_json()
    return evaluate_scenes(pipeline, config, say).to_json()
