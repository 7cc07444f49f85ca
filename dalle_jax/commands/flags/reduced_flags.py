"""Flags for the precision of a transformer in sampling, shared by the commands that sample."""

import argparse
from typing import get_args, get_type_hints

from dalle_jax.models.code_generator import Reduced


def add_reduced_flags(parser: argparse.ArgumentParser) -> None:
    """Add the choices of a transformer's precision in sampling."""
    types = get_type_hints(Reduced)
    parser.add_argument(
        "--attention", choices=get_args(get_args(types["attention"])[0]),
        help="the attention of images in slots: XLA's, or the kernel for TPUs (default: the kernel on a TPU)",
    )  # fmt: skip
    for name, what in (("weights", "matrices of a transformer"), ("cache", "cached keys and values of a transformer")):
        choices = [one for kind in get_args(types[name]) for one in get_args(kind)]
        parser.add_argument(
            f"--{name}", choices=choices, help=f"a smaller form of the {what} (default: as the model computes)"
        )


def reduced_of(args: argparse.Namespace) -> Reduced:
    """Return the choices of the flags."""
    return Reduced(args.weights, args.cache, args.attention)
