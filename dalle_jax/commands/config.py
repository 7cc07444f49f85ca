"""``config CONFIG``: prints the resolved text of a config, every include and macro put in and every default said."""

import argparse

from dalle_jax.config.bind import load
from dalle_jax.config.render import render
from dalle_jax.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("config", help="a config file, such as configs/demo/tokenizer.gin")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="the last word on one field")


def run(args: argparse.Namespace) -> int:
    """Prints the text."""
    print(render(load(args.config, Run, args.set)), end="")
    return 0
