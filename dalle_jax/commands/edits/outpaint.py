"""``outpaint --model DIR --image IMAGE --right N --prompt TEXT``: extend an image on any sides."""

import argparse

from dalle_jax.commands.edits.painting_flags import (
    add_painting_flags,
    load_painter,
    write_filled,
)
from dalle_jax.commands.sample import given_options
from dalle_jax.config.errors import UserError
from dalle_jax.images.editable import Margins, load_editable
from dalle_jax.pipelines.edits.painting import ANCHORS, margins_of, outpaint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add_painting_flags(parser)
    for side in Margins._fields:
        parser.add_argument(f"--{side}", type=int, metavar="N", help=f"pixels to add at the {side} (default 0)")
    parser.add_argument("--size", metavar="WxH", help="the new size in pixels, in place of the sides")
    parser.add_argument(
        "--anchor", choices=ANCHORS, default="center", help="where the image lies in the new size (default center)"
    )


def run(args: argparse.Namespace) -> int:
    """Extend the image, and write the results with their scores and a grid."""
    margins = _margins(args)
    pipeline = load_painter(args)
    result = outpaint(
        pipeline, args.image, args.prompt, **margins._asdict(), context=args.context, **given_options(args)
    )
    write_filled(result, pipeline, args.out)
    return 0


def _margins(args: argparse.Namespace) -> Margins:
    """Return the margins from the sides, or from the new size and the anchor. Raise UserError for both."""
    sides = {side: value for side in Margins._fields if (value := getattr(args, side)) is not None}
    if args.size is None:
        return Margins(**sides)
    if sides:
        raise UserError(f"size: expected either --size or sides, got --size {args.size} and --{next(iter(sides))}")
    width, _, height = args.size.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UserError(f"size: expected WIDTHxHEIGHT in pixels, such as 512x256, got {args.size}")
    return margins_of(load_editable(args.image).size, (int(width), int(height)), args.anchor)
