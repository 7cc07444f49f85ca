"""``vary --model DIR --image IMAGE``: sample variations of an image, and write them with a grid."""

import argparse
from pathlib import Path

from dalle_jax.commands.edits.embedding_flags import (
    add_edit_flags,
    add_size_flag,
    edit_options,
    load_editor,
    warn_of_truncation,
)
from dalle_jax.commands.sample import write_generations
from dalle_jax.pipelines.edits.vary import STRENGTH, vary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("--image", type=Path, required=True, help="the image to vary")
    parser.add_argument(
        "--text", help="a description of the image; what it does not name changes, and CLIP ranks by it"
    )
    parser.add_argument(
        "--strength", type=float, help=f"share of the way to a vector of the prior for --text (default {STRENGTH})"
    )
    add_size_flag(parser)
    add_edit_flags(parser, candidates=4, eta=1.0)


def run(args: argparse.Namespace) -> int:
    """Sample the variations, and write them with their scores and a grid."""
    editor = load_editor(args, "vary")
    result = vary(
        editor,
        args.image,
        text=args.text,
        strength=args.strength,
        eta=args.eta,
        original_size=args.original_size,
        **edit_options(args),
    )
    write_generations([result], args.out)
    warn_of_truncation(editor, [] if args.text is None else [args.text])
    print(f"{args.out}/grid.png")
    return 0
