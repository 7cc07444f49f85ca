"""``text-tokenizer CONFIG``: a SentencePiece model trained on the captions of a source."""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from dalle_jax import storage
from dalle_jax.config.bind import load
from dalle_jax.data.mixture import Mixture
from dalle_jax.data.records import BadRecord, Record
from dalle_jax.images.files import write_bytes
from dalle_jax.runs import TextTokenizerRun
from dalle_jax.storage import Place
from dalle_jax.text.sentencepiece import train_sentencepiece


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("config", help="a config file, such as configs/demo/text.gin")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="the last word on one field")
    parser.add_argument(
        "--out", type=storage.reachable, required=True, help="the model file to write, such as runs/text.model"
    )


def run(args: argparse.Namespace) -> int:
    """Trains and writes the model."""
    train_text_tokenizer(load(args.config, TextTokenizerRun, args.set), args.out)
    print(args.out)
    return 0


def train_text_tokenizer(config: TextTokenizerRun, out: Place) -> None:
    """Trains on the captions of the source's first examples and writes ``out``, whole or not at all."""
    parts = list(config.source.sources().values()) if isinstance(config.source, Mixture) else [config.source]
    captions = itertools.chain.from_iterable(map(_captions, parts))
    first = itertools.islice(captions, config.captions)
    model = train_sentencepiece(itertools.chain.from_iterable(first), config.vocabulary, config.algorithm, config.seed)
    write_bytes(out, model)


def _captions(config: Any) -> Iterator[Sequence[str]]:
    """The captions of each example or record; a record that cannot be read is passed over, as training does."""
    source = config.open()
    for index in range(len(source)):
        try:
            one = source[index]
        except BadRecord:
            continue
        yield one.captions if isinstance(one, Record) else one["captions"]
