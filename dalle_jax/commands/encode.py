"""``encode CONFIG --out DIR``: pictures to codes, once; goes on where it was stopped."""

import argparse
from collections.abc import Callable
from typing import TypeVar

from dalle_jax import storage
from dalle_jax.config.bind import load
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.data.code_folder import CodeFolder
from dalle_jax.data.report import Report
from dalle_jax.parallel import hosts
from dalle_jax.pipelines.encode import Encoder, encode, encoding
from dalle_jax.pipelines.load import load_image_tokenizer
from dalle_jax.runs import EncodeRun
from dalle_jax.storage import Place

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("config", help="a config file that says run = @EncodeRun, such as configs/smoke/encode.gin")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="the last word on one field")
    parser.add_argument("--out", required=True, help="the folder for the codes, which all processes of the run see")


def run(args: argparse.Namespace) -> int:
    """Encodes what is missing, and writes the manifest."""
    config: EncodeRun = load(args.config, EncodeRun, args.set)
    hosts.join()
    encode_source(config, storage.place(args.out))
    return 0


def encode_source(config: EncodeRun, out: Place) -> Encoder | None:
    """Fills a folder of this machine with codes; returns what encoded, None where nothing was missing."""
    if storage.is_remote(out):
        raise UserError(f"{out}: expected a folder of this machine or of a network drive; copy it to a URL afterwards")
    process, processes = hosts.place()
    place = storage.place(config.image_tokenizer)
    source, tokenizer = config.source.open(), load_image_tokenizer(place)
    what = encoding(source, tokenizer, config.image_size, config.crops, config.shard_examples)
    folder = CodeFolder(storage.absolute(out), what, process, processes)
    lock = folder.lock()
    _together(lock.__enter__)
    try:
        _together(lambda: None if process else folder.begin())
        _together(folder.compare)
        missing = folder.missing()
        if not sum(_gathered(len(missing))) and all(_gathered(int(folder.is_finished()))):
            _say(f"{out} is finished: {what.examples} pictures, {what.crops} crops of each", process)
            return None
        if process == 0:
            folder.reopen()
        _gathered(0)
        encoder = Encoder(tokenizer, source, what, config.batch_size)
        try:
            encode(encoder, folder, missing, lambda line: _say(line, process))
        finally:
            report: Report | None = getattr(source, "report", None)
            if report is not None:
                report.write(out / f"report-{process}.json")
        folder.finish(str(storage.absolute(place)), render(config))
        _say(f"{out}: the codes of {what.examples} pictures, {what.crops} crops of each", process)
        return encoder
    finally:
        lock.__exit__(None, None, None)


def _together(step: Callable[[], T]) -> T | None:
    """A step that all processes take or none: where one of them raises UserError, the others do too."""
    error, result = None, None
    try:
        result = step()
    except UserError as raised:
        error = raised
    failed = _gathered(int(error is not None))
    if error is not None:
        raise error
    if any(failed):
        raise UserError(f"process {failed.index(1)} of this run could not begin; see what it says")
    return result


def _gathered(value: int) -> list[int]:
    """What every process gives; none goes on before all have given it."""
    return [int(one) for one in hosts.gather(str(value).encode())]


def _say(line: str, process: int) -> None:
    print(f"[encode {process}] {line}", flush=True)
