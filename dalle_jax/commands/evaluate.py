"""``evaluate CONFIG --model DIR``: run the evaluations of a config on a trained pipeline and write JSON."""

import argparse
from collections.abc import Iterator
from functools import cache
from typing import Any

from dalle_jax import storage
from dalle_jax.config.bind import load
from dalle_jax.evaluate.captioned import EvaluateCaptioned, evaluate_captioned
from dalle_jax.evaluate.report import write_metrics
from dalle_jax.evaluate.scenes import EvaluateScenes, evaluate_scenes
from dalle_jax.pipelines.autoregressive import Pipeline
from dalle_jax.pipelines.load_pipeline import load_pipeline
from dalle_jax.runs import EvaluateRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("config", help="a config file, such as configs/demo/evaluation.gin")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="the last word on one field")
    parser.add_argument(
        "--model", type=storage.reachable, required=True, help="a folder with pipeline.gin, such as runs/demo"
    )
    parser.add_argument(
        "--out", type=storage.reachable, help="the JSON file to write (default: evaluation.json beside the model)"
    )


def run(args: argparse.Namespace) -> int:
    """Run each evaluation and write the figures of all, by the evaluation's name."""
    run: EvaluateRun = load(args.config, EvaluateRun, args.set)
    pipeline_of = cache(lambda batch: load_pipeline(args.model, batch=batch))  # compiled once per size of batch
    out = args.out or args.model / "evaluation.json"
    figures = {}
    for name, config in run.evaluations.items():
        print(f"evaluation {name}", flush=True)
        figures[name] = _figures(pipeline_of(config.drawing.batch), run, config)
    write_metrics(out, figures)
    print(out)
    return 0


def held_out_batches(run: EvaluateRun, config: EvaluateCaptioned) -> Iterator[dict[str, list[Any]]]:
    """Yield the held-out examples of the run's data in batches of ``config.among``."""
    assert run.data is not None
    return run.data.of(config.among).open().evaluation_batches()


def _figures(pipeline: Pipeline, run: EvaluateRun, config: EvaluateScenes | EvaluateCaptioned) -> dict[str, Any]:
    def say(line: str) -> None:
        print(line, flush=True)

    if isinstance(config, EvaluateCaptioned):
        captioned = evaluate_captioned(pipeline, config, held_out_batches(run, config), say)
        return {"reconstruction": captioned.reconstruction.to_json()} | {f.path: f.value for f in captioned.figures}
    findings = evaluate_scenes(pipeline, config, say)
    return {
        "reconstruction": findings.reconstruction.to_json(),
        "composition": findings.composition.to_json(),
        "guidance": {f"{point.scale:g}": point.composition.to_json() for point in findings.guidance},
        "clip": {
            "zero_shot": findings.zero_shot.value,
            "zero_shot_ensemble": findings.zero_shot_ensemble.value,
        },
    }
