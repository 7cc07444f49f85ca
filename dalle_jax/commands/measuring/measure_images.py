"""``evaluate --images``: measure images that are there already, or reconstructions of them by an image tokenizer."""

import argparse
from dataclasses import replace
from pathlib import Path

from dalle_jax.commands.flags.image_set_flags import (
    comparison_of,
    open_extractors,
    open_image_set,
    open_reference,
    refuse_flags,
)
from dalle_jax.commands.flags.mesh_flags import bulk_layout
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.features.image_distance import LpipsDistance, open_lpips
from dalle_jax.evaluate.report.evaluation_page import page_of, write_evaluation
from dalle_jax.evaluate.suites.compare_images import AMONG, Judges, compare_images
from dalle_jax.evaluate.suites.image_sets import stream
from dalle_jax.evaluate.suites.panels import SuiteFindings
from dalle_jax.evaluate.suites.sets.evaluate_reconstruction import EvaluateReconstruction, evaluate_reconstruction
from dalle_jax.parallel import failures, hosts
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.load.models import load_tokenizer_in
from dalle_jax.pipelines.load.pipeline import load_ranker
from dalle_jax.storage import Place

STATISTICS = "statistics"
"""The folder beside the JSON in which the features of the reference are kept."""


def measure_images(args: argparse.Namespace) -> int:
    """Measure a set of images, and write JSON and a page. Each process reads its share with its own devices."""
    if args.config is not None:
        raise UserError(f"evaluate: expected a config or --images, got both {args.config} and {args.images}")
    refuse_flags(args, ("set",), "with --images, which needs no config")
    if args.out is None:
        raise UserError("--out: expected the JSON file to write, got none")
    if args.model is not None:
        refuse_flags(
            args,
            ("against", "clip", "inception_score", "statistics", "image_tokenizer"),
            "with --model, whose reconstructions are compared with the images",
        )
    elif args.against is None:
        refuse_flags(args, ("distances", "statistics"), "without --against, the images to compare with")
        if not args.inception_score:
            refuse_flags(args, ("features",), "without --against, the images to compare with, or --inception-score")
    comparison_of(args)  # before anything is loaded
    hosts.join()
    with failures.shared():
        layout = bulk_layout(args.mesh, args.rules, together=False)
        if args.model is not None:
            title, found = f"Reconstructions by {args.model}", _reconstructed(args, layout)
        else:
            title, found = _compared(args, layout)
        if hosts.is_first():
            write_evaluation(args.out, title, {"images": found})
        say(f"{args.out}, {page_of(args.out)}")
    return 0


def _compared(args: argparse.Namespace, layout: Layout | None) -> tuple[str, SuiteFindings]:
    images = open_image_set(args.images, args.size, args.image_tokenizer, layout, say)
    against = None
    if args.against is not None:
        kept = args.statistics or _beside(args.out)
        against = open_reference(args.against, args.size, args.image_tokenizer, layout, say, kept)
    judges = Judges(
        open_extractors(args.features, args.clip, layout) if against is not None or args.inception_score else {},
        None if args.clip is None else load_ranker(args.clip, AMONG, layout),
        _lpips(args, layout),
    )
    found = compare_images(images, against, judges, comparison_of(args), say)
    return " against ".join(name for name, _ in found.sets), found


def _reconstructed(args: argparse.Namespace, layout: Layout | None) -> SuiteFindings:
    images = open_image_set(args.images, args.size, None, layout, say)
    compared = comparison_of(args)
    config = EvaluateReconstruction(distances=compared.distances, batch=AMONG // 2, shown=compared.shown)
    codec = ImageCodec(load_tokenizer_in(args.model, layout), config.batch, layout)
    return evaluate_reconstruction(
        f"Reconstructions of {args.images} by {args.model}",
        stream(images, AMONG, args.count),
        codec,
        open_extractors(args.features, None, layout),
        _lpips(args, layout),
        replace(config, images=args.count),
        say,
        merge=True,
    )


def _lpips(args: argparse.Namespace, layout: Layout | None) -> LpipsDistance | None:
    return None if args.lpips is None else open_lpips(args.lpips, layout)


def _beside(out: Place) -> Path | None:
    """Return the folder of statistics beside a file of this machine."""
    return out.parent / STATISTICS if isinstance(out, Path) else None


def say(line: str) -> None:
    """Print a line, on the first process only."""
    if hosts.is_first():
        print(line, flush=True)
