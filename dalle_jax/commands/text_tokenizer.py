"""``text-tokenizer CONFIG``: train a SentencePiece model on the captions of a source and measure its coverage."""

import argparse

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.caption_reader import read_captions
from dalle_jax.data.records import BadRecord
from dalle_jax.runs import TextTokenizerRun, load_run
from dalle_jax.storage import Place, write_bytes
from dalle_jax.text.coverage import Coverage, measure_coverage
from dalle_jax.text.sentencepiece import train_sentencepiece

MEASURED = 100_000
"""Largest number of captions on which the coverage is measured. If there are more, evenly spaced ones are used."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("config", help="a config file, such as configs/demo/text.gin")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="set one field of the config")
    parser.add_argument(
        "--out", type=storage.reachable, required=True, help="the model file to write, such as runs/text.model"
    )


def run(args: argparse.Namespace) -> int:
    """Train and write the model, and print its coverage."""
    config: TextTokenizerRun = load_run(args.config, TextTokenizerRun, args.set)
    coverage = train_text_tokenizer(config, args.out)
    print(coverage.format_text(config.text_length, config.dropout))
    print(args.out)
    return 0


def train_text_tokenizer(config: TextTokenizerRun, out: Place) -> Coverage:
    """Train on the captions of the source's first images and write the model to ``out`` atomically."""
    model, coverage = train_model(config)
    write_bytes(out, model)
    return coverage


def train_model(config: TextTokenizerRun) -> tuple[bytes, Coverage]:
    """Train on the captions of the source's first images. Return the model and its coverage of these captions."""
    bad: list[BadRecord] = []
    captions = list(read_captions(config.source, config.captions, bad, config.blend, config.held_out))
    if not captions:
        first = f"; the first of {len(bad)} bad records is {bad[0]}" if bad else ""
        raise UserError(f"source: expected captions to train a text tokenizer on, got none{first}")
    if bad:
        print(f"{len(bad)} records could not be read, such as {bad[0]}")
    model = train_sentencepiece(captions, config.vocabulary, config.algorithm, config.seed, config.lower)
    measured = captions[:: -(-len(captions) // MEASURED)]
    return model, measure_coverage(model, measured, config.text_length, config.dropout, config.seed)
