"""``inpaint --model DIR --image IMAGE --mask MASK --prompt TEXT``: fill the masked part of an image."""

import argparse
from pathlib import Path

from dalle_jax.commands.edits.painting_flags import (
    add_painting_flags,
    load_painter,
    write_filled,
)
from dalle_jax.commands.sample import given_options
from dalle_jax.pipelines.edits.painting import inpaint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add_painting_flags(parser)
    parser.add_argument(
        "--mask",
        type=Path,
        help="an image of the same size; its transparent pixels are filled, or without transparency its white ones "
        "(default: the transparent pixels of the image)",
    )


def run(args: argparse.Namespace) -> int:
    """Fill the hole, and write the results with their scores and a grid."""
    pipeline = load_painter(args)
    result = inpaint(pipeline, args.image, args.prompt, mask=args.mask, context=args.context, **given_options(args))
    write_filled(result, pipeline, args.out)
    return 0
