"""``evaluate CONFIG --model DIR``: run the evaluations of a config on a trained pipeline; write JSON and a page.

``evaluate --images SOURCE`` compares images that are there already, with others or with their captions.
"""

import argparse
from functools import cache

from dalle_jax import storage
from dalle_jax.commands.flags.image_set_flags import (
    add_image_set_flags,
    comparison_of,
    open_extractors,
    open_image_set,
)
from dalle_jax.commands.flags.mesh_flags import add_mesh_flags, bulk_layout
from dalle_jax.commands.flags.reduced_flags import add_reduced_flags, reduced_of
from dalle_jax.commands.measuring.run_suites import SuiteData, findings_of
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.evaluate.report.evaluation_page import page_of, write_evaluation
from dalle_jax.evaluate.suites.compare_images import AMONG, compare_images
from dalle_jax.evaluate.suites.evaluate_text import EvaluateText, evaluate_text
from dalle_jax.evaluate.suites.panels import SuiteFindings
from dalle_jax.models.code_generator import Reduced
from dalle_jax.parallel import failures, hosts
from dalle_jax.parallel.agreement import require_same_config
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import make_mesh
from dalle_jax.pipelines.load.pipeline import load_pipeline, load_ranker
from dalle_jax.runs import EvaluateRun, load_run
from dalle_jax.storage import Place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("config", nargs="?", help="a config file, such as configs/demo/evaluation.gin")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="set one field of the config")
    parser.add_argument(
        "--model",
        type=storage.reachable,
        help="with a config, the folder of a demo, such as runs/demo, or of a trained transformer",
    )
    add_image_set_flags(parser)
    parser.add_argument(
        "--image-tokenizer", type=storage.reachable, metavar="DIR", help="an image tokenizer to use instead of its own"
    )
    parser.add_argument(
        "--clip",
        type=storage.reachable,
        metavar="DIR",
        help="a CLIP that ranks images instead of the model's; with --images, the CLIP that scores them by their "
        "captions",
    )
    parser.add_argument(
        "--out", type=storage.reachable, help="the JSON file to write (default: evaluation.json in the model's folder)"
    )
    add_reduced_flags(parser)
    add_mesh_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Run each evaluation. Write the metrics of all as JSON, by the evaluation's name, and a page beside it."""
    if args.images is not None:
        return _run_on_images(args)
    _refuse(args, ("against", "features", "distances", "size", "count", "mesh", "rules"), "without --images")
    if args.config is None:
        raise UserError("evaluate: expected a config with --model, or --images, got neither")
    run: EvaluateRun = load_run(args.config, EvaluateRun, args.set)
    if args.model is None:
        return _run_without_model(args, run)
    hosts.join()
    with failures.shared():
        require_same_config(render(run, per_host=False))
        folders, out = (args.model, args.image_tokenizer, args.clip), args.out or args.model / "evaluation.json"
        _evaluate(run, folders, reduced_of(args), out)
    return 0


def _refuse(args: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    """Raise ``UserError`` for the first flag of these that is given."""
    for name in names:
        if getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')}: expected none {why}, got {getattr(args, name)}")


def _run_on_images(args: argparse.Namespace) -> int:
    """Measure a set of images, and write JSON and a page. Each process reads its share with its own devices."""
    if args.config is not None:
        raise UserError(f"evaluate: expected a config or --images, got both {args.config} and {args.images}")
    _refuse(args, ("model", "set"), "with --images, which needs no model")
    if args.out is None:
        raise UserError("--out: expected the JSON file to write, got none")
    if args.against is None:
        _refuse(args, ("features", "distances"), "without --against, the images to compare with")
    config = comparison_of(args.distances, args.count)
    hosts.join()
    with failures.shared():
        layout = bulk_layout(args.mesh, args.rules, together=False)
        images, against = (
            None if path is None else open_image_set(path, args.size, args.image_tokenizer, layout, _say)
            for path in (args.images, args.against)
        )
        assert images is not None
        extractors = {} if against is None else open_extractors(args.features, args.clip, layout)
        clip = None if args.clip is None else load_ranker(args.clip, AMONG, layout)
        found = compare_images(images, against, extractors, clip, config, _say)
        if hosts.is_first():
            write_evaluation(args.out, " against ".join(name for name, _ in found.sets), {"images": found})
        _say(f"{args.out}, {page_of(args.out)}")
    return 0


def _run_without_model(args: argparse.Namespace, run: EvaluateRun) -> int:
    """Measure the readers of text suites on clean signs, since nothing else can be measured without a model."""
    others = [name for name, config in run.evaluations.items() if not isinstance(config, EvaluateText)]
    if others or args.out is None:
        wanted = f"a trained model for evaluations.{others[0]}" if others else "--out, or of a trained model"
        raise UserError(f"--model: expected the folder of {wanted}, got none")
    found: dict[str, SuiteFindings] = {
        name: evaluate_text(None, config, _say)
        for name, config in run.evaluations.items()
        if isinstance(config, EvaluateText)
    }
    write_evaluation(args.out, "Readers of signs", found)
    _say(f"{args.out}, {page_of(args.out)}")
    return 0


def _evaluate(
    run: EvaluateRun, folders: tuple[Place, Place | None, Place | None], reduced: Reduced, out: Place
) -> None:
    """Evaluate the pipeline of a model, an image tokenizer and a CLIP on every process; the first one writes."""
    layout = Layout(make_mesh(run.mesh), run.rules)
    pipeline_of = cache(
        lambda batch: load_pipeline(*folders, batch=batch, layout=layout, reduced=reduced)
    )  # compiled once per batch size
    found: dict[str, SuiteFindings] = {}
    for name, config in run.evaluations.items():
        _say(f"evaluation {name}")
        found[name] = findings_of(pipeline_of(config.drawing.batch), SuiteData(run.data_of), config, layout, _say)
    if hosts.is_first():
        write_evaluation(out, f"Evaluation of {folders[0]}", found)
    _say(f"{out}, {page_of(out)}")


def _say(line: str) -> None:
    """Print a line, on the first process only."""
    if hosts.is_first():
        print(line, flush=True)
