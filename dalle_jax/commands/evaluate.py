"""``evaluate CONFIG --model DIR``: run the evaluations of a config on a trained pipeline; write JSON and a page.

``evaluate --images SOURCE`` measures images that are there already: with others, with their captions, or with their
reconstructions by an image tokenizer. ``evaluate --compare DIR DIR`` puts the figures of evaluations beside each other.
"""

import argparse
from functools import cache

from dalle_jax import storage
from dalle_jax.commands.flags.image_set_flags import IMAGE_SET_FLAGS, add_image_set_flags, refuse_flags
from dalle_jax.commands.flags.mesh_flags import add_mesh_flags
from dalle_jax.commands.flags.reduced_flags import add_reduced_flags, reduced_of
from dalle_jax.commands.measuring.measure_images import measure_images, say
from dalle_jax.commands.measuring.run_suites import SuiteData, SuiteModel, findings_of
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.evaluate.report.compared_reports import compare_reports
from dalle_jax.evaluate.report.evaluation_page import page_of, write_evaluation
from dalle_jax.evaluate.suites.evaluate_text import EvaluateText, evaluate_text
from dalle_jax.evaluate.suites.panels import SuiteFindings
from dalle_jax.models.code_generator import Reduced
from dalle_jax.parallel import failures, hosts
from dalle_jax.parallel.agreement import require_same_config
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import make_mesh
from dalle_jax.pipelines.load.models import load_tokenizer_in
from dalle_jax.pipelines.load.pipeline import load_pipeline
from dalle_jax.runs import EvaluateRun, load_run
from dalle_jax.storage import Place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("config", nargs="?", help="a config file, such as configs/demo/evaluation.gin")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="set one field of the config")
    parser.add_argument(
        "--model",
        type=storage.reachable,
        help="the folder of a demo, such as runs/demo, or of a trained transformer; with --images, or for "
        "@EvaluateReconstruction, of an image tokenizer or a model that has one",
    )
    add_image_set_flags(parser)
    parser.add_argument(
        "--compare",
        nargs="+",
        type=storage.reachable,
        metavar="DIR",
        help="instead of a config: evaluations whose figures are put beside each other, JSON files or their folders",
    )
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
        return measure_images(args)
    refuse_flags(args, (*IMAGE_SET_FLAGS, "mesh", "rules"), "without --images")
    if args.compare is not None:
        return _compare_reports(args)
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


def _compare_reports(args: argparse.Namespace) -> int:
    """Compare the figures of evaluations."""
    refuse_flags(args, ("config", "set", "model", "clip"), "with --compare, which reads evaluations that exist")
    if args.out is None:
        raise UserError("--out: expected the JSON file to write, got none")
    found = compare_reports(args.compare)
    for line in found.lines():
        say(line)
    write_evaluation(args.out, "Evaluations beside each other", {"compared": found})
    say(f"{args.out}, {page_of(args.out)}")
    return 0


def _run_without_model(args: argparse.Namespace, run: EvaluateRun) -> int:
    """Measure the readers of text suites on clean signs, since nothing else can be measured without a model."""
    others = [name for name, config in run.evaluations.items() if not isinstance(config, EvaluateText)]
    if others or args.out is None:
        wanted = f"a trained model for evaluations.{others[0]}" if others else "--out, or of a trained model"
        raise UserError(f"--model: expected the folder of {wanted}, got none")
    found: dict[str, SuiteFindings] = {
        name: evaluate_text(None, config, say)
        for name, config in run.evaluations.items()
        if isinstance(config, EvaluateText)
    }
    write_evaluation(args.out, "Readers of signs", found)
    say(f"{args.out}, {page_of(args.out)}")
    return 0


def _evaluate(
    run: EvaluateRun, folders: tuple[Place, Place | None, Place | None], reduced: Reduced, out: Place
) -> None:
    """Evaluate the pipeline of a model, an image tokenizer and a CLIP on every process; the first one writes."""
    layout = Layout(make_mesh(run.mesh), run.rules)
    model = SuiteModel(
        cache(lambda batch: load_pipeline(*folders, batch=batch, layout=layout, reduced=reduced)),  # once per size
        lambda: load_tokenizer_in(folders[1] or folders[0], layout),
    )
    found: dict[str, SuiteFindings] = {}
    for name, config in run.evaluations.items():
        say(f"evaluation {name}")
        found[name] = findings_of(model, SuiteData(run.data_of), config, layout, say)
    if hosts.is_first():
        write_evaluation(out, f"Evaluation of {folders[0]}", found)
    say(f"{out}, {page_of(out)}")
