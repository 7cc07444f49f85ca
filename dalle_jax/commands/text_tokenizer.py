"""``text-tokenizer CONFIG``: a SentencePiece model trained on the captions of a source."""

import argparse

from dalle_jax import storage
from dalle_jax.config.bind import load
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
    source = config.source.open()
    captions = [caption for i in range(min(config.captions, len(source))) for caption in source[i]["captions"]]
    model = train_sentencepiece(captions, config.vocabulary, config.algorithm, config.seed)
    write_bytes(out, model)
