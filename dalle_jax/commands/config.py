"""``config CONFIG``: print a config with its includes and macros resolved and its defaults filled in."""

import argparse

from dalle_jax.commands.demo_stages import is_within_a_stage
from dalle_jax.config.bind import load
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("config", help="a config file, such as configs/demo/tokenizer.gin")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="set one field of the config")


def run(args: argparse.Namespace) -> int:
    """Print the resolved config.

    Raises UserError if ``--set`` names a field of a demo's stage, which has its own file.
    """
    for one in filter(is_within_a_stage, args.set):
        _, name, field = one.split(".", 2)
        raise UserError(
            f"--set {one}: expected a field of {args.config}, got a field of the stage {name}, which has its own "
            f"config file. To print that one, run the command `config FILE --set {field}`, "
            f"where FILE is the value of stages.{name}"
        )
    print(render(load(args.config, Run, args.set)), end="")
    return 0
