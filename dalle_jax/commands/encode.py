"""``encode CONFIG --out DIR``: encode a data set to codes or embeddings; a stopped run resumes."""

import argparse
from pathlib import Path

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.data.examples import record_stats
from dalle_jax.data.examples.record_stats import RecordStats
from dalle_jax.data.open_data import SourceOpener
from dalle_jax.data.precomputed.manifest import AnyEncoding
from dalle_jax.data.precomputed.writer import EncodedFolder, upload
from dalle_jax.data.source import Source
from dalle_jax.folder_lock import locked
from dalle_jax.parallel import failures, hosts
from dalle_jax.parallel.agreement import require_same_config
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.compiled_network import local_layout
from dalle_jax.pipelines.encode import CodesPayload, Encoder, Payload, encode, encoding
from dalle_jax.pipelines.encode_embeddings import EmbeddingsPayload, embedding_encoding
from dalle_jax.pipelines.load.models import load_clip, load_image_tokenizer
from dalle_jax.pipelines.load.text import fingerprint_of_folder, load_text
from dalle_jax.runs import EncodeRun, load_run
from dalle_jax.storage import Place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("config", help="a config file with run = @EncodeRun, such as configs/smoke/encode.gin")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="set one field of the config")
    parser.add_argument("--out", required=True, help="the folder or URL for the shards, visible to all processes")
    parser.add_argument("--work", help="with a URL, a folder visible to all processes, for shards before the upload")


def run(args: argparse.Namespace) -> int:
    """Encode the missing shards and write the manifest."""
    config: EncodeRun = load_run(args.config, EncodeRun, args.set)
    hosts.join()
    with failures.shared():
        require_same_config(render(config, per_host=False))
        _encode_to(config, args)
    return 0


def _encode_to(config: EncodeRun, args: argparse.Namespace) -> None:
    """Encode into the folder or URL of ``--out``."""
    out = hosts.call_and_share_errors(lambda: storage.reachable(args.out))
    if not storage.is_remote(out):
        if args.work is not None:
            raise UserError(f"--work: expected no folder, because codes are written directly to the folder --out {out}")
        encode_source(config, out)
        return
    if args.work is None:
        raise UserError(f"--out {out}: expected --work FOLDER with a URL; codes are written there before the upload")
    work = storage.place(args.work)
    with locked(out, "encode"):
        encode_source(config, work)
        sent = hosts.call_and_share_errors(lambda: upload(Path(work), out) if hosts.is_first() else 0)
    _say(f"{sent} shards uploaded to {out}")


def encode_source(config: EncodeRun, out: Place) -> Encoder | None:
    """Encode a source into a local folder. Return the encoder, or None if no shard was missing."""
    if storage.is_remote(out):
        raise UserError(f"{out}: expected a local folder or a network drive to write the codes to, got a URL")
    path = Path(storage.absolute(out))
    with locked(path, "encode"):
        return _encode(config, path)


def _encode(config: EncodeRun, path: Path) -> Encoder | None:
    """Encode the missing shards of this process in a locked folder. All processes must call it together.

    Return the encoder, or None if no shard was missing.
    """
    process, processes = hosts.process_index_and_count()
    source, records = _opened(config, path)
    place = storage.place(config.network)
    layout = hosts.call_and_share_errors(lambda: local_layout(config.mesh, config.rules))
    payload, what = hosts.call_and_share_errors(lambda: _payload(config, place, source, layout))
    folder = EncodedFolder(path, what, process, processes)
    hosts.call_and_share_errors(lambda: None if process else folder.begin())
    hosts.call_and_share_errors(folder.compare)
    missing = folder.missing()
    done = all(hosts.gather(b"x" if folder.is_finished() and not missing else b""))
    if not done:
        if process == 0:
            folder.reopen()
        hosts.gather(b"")
        encoder = Encoder(payload, source, what, config.batch_size, layout)
        encode(encoder, folder, missing, lambda line: print(f"[encode {process}] {line}", flush=True))
        folder.wait_for_shards()
        _account(records, path)
        folder.finish(str(storage.absolute(place)), render(config))
    _say(f"{path} has the {what.KIND} of {what.examples} images, {what.crops} crops each")
    return None if done else encoder


def _payload(config: EncodeRun, place: Place, source: Source, layout: Layout) -> tuple[Payload, AnyEncoding]:
    """Load the network of the config; return its payload, and all that the encoding depends on."""
    size, crops, shard_examples = config.image_size, config.crops, config.shard_examples
    if config.clip is None:
        tokenizer = load_image_tokenizer(place, layout)
        return CodesPayload(tokenizer), encoding(source, tokenizer, size, crops, shard_examples)
    clip = load_clip(place, layout)
    text = load_text(place, clip.config.text_length)
    words = fingerprint_of_folder(place)
    what = embedding_encoding(source, clip, words, size, crops, shard_examples, config.text_states)
    return EmbeddingsPayload(clip, text, config.batch_size, config.text_states, layout), what


def _opened(config: EncodeRun, path: Path) -> tuple[Source, RecordStats | None]:
    """Open the part of the source to encode. Return it, and the statistics of its records (None without records).

    Raises UserError if that part has no images.
    """
    opener = SourceOpener(config.images, config.workers, path, _say)
    training, held_out = opener.open(config.source, "source", config.held_out)
    chosen = held_out if config.part == "held_out" else training
    if chosen is None or not len(chosen):
        raise UserError(f"encode: expected images in the part {config.part!r} of the source, got none")
    return chosen, opener.finish()


def _account(records: RecordStats | None, path: Path) -> None:
    """Write the statistics of the records to a file, and print them. Raises UserError if too many records are bad."""
    if records is None:
        return
    content = records.content()
    if hosts.is_first():
        storage.write(path / record_stats.FILE, record_stats.to_json(content))
    _say(record_stats.format_line(content))
    records.stop_together()


def _say(line: str) -> None:
    """Print a line, on the first process only."""
    if hosts.is_first():
        print(line, flush=True)
