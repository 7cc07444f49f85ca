"""``export KIND MODEL DIR``: write a trained or imported model in the layout that another program loads."""

import argparse
from pathlib import Path
from typing import get_args

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.models.model_configs import AnyModelConfig
from dalle_jax.pipelines.load.models import load_network, read_model_file
from dalle_jax.pipelines.load.text import IMPORTED, has_text, read_text
from dalle_jax.pretrained.exporters import EXPORTERS, ReadText, find_exporter
from dalle_jax.pretrained.publisher import UNKNOWN_LICENCE
from dalle_jax.storage import Place
from dalle_jax.untrusted import parse_json, read_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("kind", metavar="KIND", help="; ".join(f"{one.name}: {one.help}" for one in EXPORTERS))
    parser.add_argument("model", type=storage.reachable, metavar="MODEL", help="folder of a trained model")
    parser.add_argument("out", type=Path, metavar="DIR", help="folder to write to")


def run(args: argparse.Namespace) -> int:
    """Load the EMA weights and write them, with the text tokenizer and the licence that came with the model."""
    chosen = find_exporter(args.kind)
    found = type(read_model_file(args.model).model).__name__
    if found != chosen.config:
        expected = chosen.config.removesuffix("Config")
        raise UserError(f"{args.model}: expected a {expected} for {chosen.name}, got a {found.removesuffix('Config')}")
    network = load_network(args.model, get_args(AnyModelConfig))
    chosen.write(network, args.out)
    licence = _licence(args.model)
    text = ReadText(*read_text(args.model)) if has_text(args.model) else None
    written = chosen.write_companions(args.out, licence, text)
    print(args.out)
    if written:
        print(f"{args.out}: with {', '.join(written)} of {args.model}")
    return 0


def _licence(model: Place) -> str | None:
    """Return the licence that ``import`` recorded, or None for a model of our own or an unknown licence."""
    path = model / IMPORTED
    if not path.is_file():
        return None
    try:
        record = parse_json(read_file(path))
    except ValueError as error:
        raise UserError(f"{path}: expected the JSON that `import` wrote, got other content ({error})") from error
    licence = record.get("licence") if isinstance(record, dict) else None
    return licence if isinstance(licence, str) and licence != UNKNOWN_LICENCE else None
