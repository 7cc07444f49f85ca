"""``edit --model DIR --image IMAGE --from TEXT --to TEXT``: change an image by a text difference."""

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
from dalle_jax.pipelines.edits.text_edit import STRENGTHS, edit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("--image", type=Path, required=True, help="the image to edit")
    parser.add_argument("--from", dest="from_text", required=True, metavar="TEXT", help="a description of the image")
    parser.add_argument("--to", dest="to_text", required=True, metavar="TEXT", help="a description of the result")
    parser.add_argument(
        "--strength",
        action="append",
        type=float,
        help="share of the turn toward the text difference, from 0 to 1; may be given several times (default "
        f"{', '.join(map(str, STRENGTHS))})",
    )
    add_size_flag(parser)
    add_edit_flags(parser, candidates=1, eta=0.0)


def run(args: argparse.Namespace) -> int:
    """Edit the image, and write the results with their scores and a grid."""
    editor = load_editor(args, "edit")
    result = edit(
        editor,
        args.image,
        args.from_text,
        args.to_text,
        strength=STRENGTHS if args.strength is None else args.strength,
        eta=args.eta,
        original_size=args.original_size,
        **edit_options(args),
    )
    write_generations([result], args.out)
    warn_of_truncation(editor, [args.from_text, args.to_text])
    print(f"{args.out}/grid.png")
    return 0
