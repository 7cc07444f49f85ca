"""``inspect CONFIG|SOURCE --out DIR``: examine a data source; write a page, JSON and a contact sheet."""

import argparse
import json
import sys

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.examples.images import Images
from dalle_jax.data.examples.inspection import inspect
from dalle_jax.data.mixture import Mixture
from dalle_jax.data.open_data import Openable
from dalle_jax.data.source_of_path import source_of_path
from dalle_jax.data.sources.precomputed import ClipEmbeddings, Codes
from dalle_jax.data.sources.scenes import Scenes
from dalle_jax.evaluate.report.inspection_page import contact_sheet, format_text, inspection_page, to_json
from dalle_jax.images.png import write_png
from dalle_jax.pipelines.load.models import read_model_file
from dalle_jax.pipelines.load.text import load_text
from dalle_jax.rewards.ranked_candidates import RankedCandidates
from dalle_jax.runs import InspectRun, TrainRun, load_run
from dalle_jax.storage import Place, write_bytes
from dalle_jax.text.sentencepiece import SentencePiece
from dalle_jax.text.tokenizer import TextTokenizer
from dalle_jax.untrusted import read_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "source",
        help="a config (.gin) of training or with run = @InspectRun, a folder of images, or tars, parquet or "
        "array_record files, or a folder of them",
    )
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="set one field of the config")
    parser.add_argument(
        "--text",
        metavar="DIR",
        help="count the tokens of captions: the folder of a model that reads text, or text.model",
    )
    parser.add_argument(
        "--text-length", type=int, metavar="N", help="with --text, the context to compare with (default: the model's)"
    )
    parser.add_argument(
        "--out", type=storage.reachable, required=True, help="the folder for the page, the JSON and the contact sheet"
    )


def run(args: argparse.Namespace) -> int:
    """Examine a source, print a summary and write the report. Each source of a mixture gets its own folder."""
    config = read_config(args.source, args.set)
    if config.examine < 1 or config.cells < 0:
        raise UserError(
            f"examine, cells: expected examine >= 1 and cells >= 0, got {config.examine} and {config.cells}"
        )
    config.images.check()
    length = config.text_length if args.text_length is None else args.text_length
    tokenizer = load_tokenizer(args.text or config.text, length)
    if isinstance(config.source, Mixture):
        for name, part in config.source.parts.items():
            print(f"{name}:")
            _inspect(part.source, config, args.out / name, f"{args.source}: {name}", tokenizer)
    else:
        _inspect(config.source, config, args.out, str(args.source), tokenizer)
    return 0


def load_tokenizer(path: str | None, length: int | None) -> TextTokenizer | None:
    """Load the text tokenizer in a model's folder, or in a file ``text.model``, with the context ``length``.

    Raises UserError if there is none, or no context to compare with.
    """
    if path is None:
        if length is not None:
            raise UserError(f"text_length: expected None without text, the text tokenizer to count with, got {length}")
        return None
    place = storage.place(path)
    if length is not None and length < 1:
        raise UserError(f"text_length: expected at least 1 token, got {length}")
    if place.is_file():
        if length is None:
            raise UserError(f"text_length: expected the context to compare with, since {path} has none, got None")
        return SentencePiece(read_file(place), length)
    if length is None:
        length = getattr(read_model_file(place).model, "text_length", None)
        if length is None:
            raise UserError(f"{path}: expected a model that reads text, or text_length, got neither")
    return load_text(place, length)


def _inspect(source: Openable, config: InspectRun, out: Place, title: str, tokenizer: TextTokenizer | None) -> None:
    """Examine one source, write its files to ``out`` and print a summary."""

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    findings = inspect(source.open(), config.images, config.examine, config.cells, say, tokenizer)
    content = to_json(findings)
    sheet = contact_sheet(findings)
    if sheet is not None:
        write_png(out / "contact_sheet.png", sheet)
    write_bytes(out / "inspect.json", (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())
    write_bytes(out / "inspect.html", inspection_page(title, content, sheet).encode())
    print(format_text(content))
    print(out / "inspect.html")


def read_config(source: str, sets: list[str]) -> InspectRun:
    """Return the config of an inspection: from a config file, or the default one for a folder or tars.

    A training config gives its own source and image preprocessing.
    """
    if source.endswith(".gin"):
        config: TrainRun | InspectRun = load_run(source, TrainRun | InspectRun, sets)
        if isinstance(config, InspectRun):
            return config
        if isinstance(config.data.source, Codes | ClipEmbeddings | RankedCandidates):
            kind = type(config.data.source).__name__
            raise UserError(
                f"{source}: data.source: expected a source of images, got {kind}; inspect the source that was encoded"
            )
        if config.data.images is None and not isinstance(config.data.source, Scenes):
            raise UserError(f"{source}: data.images: expected @Images, which crops and filters images; got None")
        cropping = config.data.images or Images(size=256)  # has no effect on scenes, which are rendered in size
        return InspectRun(config.data.source, cropping)
    if sets:
        raise UserError(
            f"{source}: expected a config (.gin) to inspect, since --set sets a field of a config; leave out --set"
        )
    found = source_of_path(source, lambda line: print(line, file=sys.stderr, flush=True))
    return InspectRun(source=found, images=Images(size=256))
