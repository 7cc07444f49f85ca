"""``export KIND MODEL DIR``: write a trained or imported model in the layout that another program loads."""

import argparse
from pathlib import Path
from typing import get_args

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.models.model_configs import AnyModelConfig
from dalle_jax.pipelines.load.models import load_network, read_model_file
from dalle_jax.pretrained.exporters import EXPORTERS, find_exporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("kind", metavar="KIND", help="; ".join(f"{one.name}: {one.help}" for one in EXPORTERS))
    parser.add_argument("model", type=storage.reachable, metavar="MODEL", help="folder of a trained model")
    parser.add_argument("out", type=Path, metavar="DIR", help="folder to write to")


def run(args: argparse.Namespace) -> int:
    """Load the EMA weights and write them."""
    chosen = find_exporter(args.kind)
    found = type(read_model_file(args.model).model).__name__
    if found != chosen.config:
        expected = chosen.config.removesuffix("Config")
        raise UserError(f"{args.model}: expected a {expected} for {chosen.name}, got a {found.removesuffix('Config')}")
    network = load_network(args.model, get_args(AnyModelConfig))
    chosen.write(network, args.out)
    print(args.out)
    return 0
