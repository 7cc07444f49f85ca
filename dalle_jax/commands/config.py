"""``config CONFIG``: print a config with its includes and macros resolved and its defaults filled in."""

import argparse

from dalle_jax.config.bind import load
from dalle_jax.config.render import render
from dalle_jax.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("config", help="a config file, such as configs/demo/tokenizer.gin")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="set one field of the config")


def run(args: argparse.Namespace) -> int:
    """Print the resolved config."""
    print(render(load(args.config, Run, args.set)), end="")
    return 0
