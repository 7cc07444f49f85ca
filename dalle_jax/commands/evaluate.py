"""``evaluate CONFIG --model DIR``: the figures of a trained pipeline on captioned scenes, as JSON."""

import argparse

from dalle_jax import storage
from dalle_jax.config.bind import load
from dalle_jax.evaluate.report import write_metrics
from dalle_jax.evaluate.scenes import evaluate_scenes
from dalle_jax.pipelines.autoregressive import load_pipeline
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
    """Draws, judges and writes the figures."""
    run: EvaluateRun = load(args.config, EvaluateRun, args.set)
    config = run.evaluation
    pipeline = load_pipeline(args.model, batch=config.drawing.batch)
    findings = evaluate_scenes(pipeline, config, lambda line: print(line, flush=True))
    out = args.out or args.model / "evaluation.json"
    write_metrics(
        out,
        {
            "reconstruction": findings.reconstruction.to_json(),
            "composition": findings.composition.to_json(),
            "guidance": {f"{point.scale:g}": point.composition.to_json() for point in findings.guidance},
            "clip": {
                "zero_shot": findings.zero_shot.value,
                "zero_shot_ensemble": findings.zero_shot_ensemble.value,
            },
        },
    )
    print(out)
    return 0
