"""``import KIND SOURCE DIR``: published weights to a checkpoint folder that every command takes."""

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.folder_lock import locked
from dalle_jax.models.clip import ClipConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.load.models import ModelFile
from dalle_jax.pipelines.load.text import IMPORTED, packed
from dalle_jax.pretrained.mapping import fill
from dalle_jax.pretrained.publisher import KINDS, Kind, Published, kind
from dalle_jax.text.bart_bpe import BartBpe
from dalle_jax.text.clip_bpe import ClipBpe
from dalle_jax.text.vocabulary_files import MERGES, TOKENIZER, VOCABULARY
from dalle_jax.train.checkpoints.save_weights import save_weights

CHUNK_BYTES = 1 << 22


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    kinds = "; ".join(f"{one.name}: {one.help}" for one in KINDS)
    parser.add_argument("kind", metavar="KIND", help=kinds)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the file or folder with the published weights")
    parser.add_argument("out", type=storage.reachable, metavar="DIR", help="the folder to make")
    parser.add_argument("--licence", metavar="TEXT", help="the licence of the weights, where the source does not say")
    parser.add_argument(
        "--vocabulary", type=Path, metavar="FILE",
        help="the text tokenizer's file where none lies beside the weights: CLIP's bpe_simple_vocab_16e6.txt.gz, or "
        "vocab.json with merges.txt beside it, or tokenizer.json",
    )  # fmt: skip
    parser.add_argument("--fsdp", type=int, default=1, help="devices over which the weights are split (default 1)")


def run(args: argparse.Namespace) -> int:
    """Reads, checks, lays out and writes."""
    chosen = kind(args.kind)
    if not args.source.exists():
        raise UserError(f"{args.source}: expected {chosen.help}, found nothing there")
    with locked(args.out, "import"):
        _import(args, chosen)
    return 0


def _import(args: argparse.Namespace, chosen: Kind) -> None:
    found = chosen.read(args.source)
    module = nnx.eval_shape(lambda: found.config.build(nnx.Rngs(0)))
    layout = None if args.fsdp == 1 else Layout(make_mesh(Mesh(data=1, fsdp=args.fsdp)), Rules())
    left = fill(module, found.tensors, found.rules, found.ignored, layout)
    licence = args.licence or found.licence
    text_files, read, said = _text(found, args.vocabulary, chosen.name)
    record = {
        "kind": chosen.name,
        "name": found.name,
        "licence": licence,
        "tensors": len(found.tensors) + len(found.tensors.left),
        "ignored": left,
        "files": [_hashed(path) for path in (*found.files, *read)],
    }
    text = render(ModelFile(model=found.config))
    files = {"model.gin": text.encode(), IMPORTED: (json.dumps(record, indent=2) + "\n").encode(), **text_files}
    save_weights(args.out, module, text, files)
    used = len(found.tensors) + len(found.tensors.left) - len(left)
    print(f"{args.out}: {_called(found)}, {used} tensors used, {len(left)} ignored, licence: {licence}")
    if said:
        print(f"{args.out}: {said}")


def _text(found: Published, given: Path | None, kind_name: str) -> tuple[dict[str, bytes], list[Path], str]:
    """The text tokenizer's files for the folder, those that were read, and what is to be said of it.

    One that is not the model's is left out where it lay beside the weights, and UserError where it was ``given``.
    """
    vocabulary = found.vocabulary
    if vocabulary is None:
        if given is not None:
            raise UserError(f"--vocabulary: expected none, since {kind_name} reads no texts, got {given}")
        return {}, [], ""
    file = given or found.vocabulary_file
    if file is None:
        return {}, [], "no text tokenizer lay beside the weights; to give it texts, import with --vocabulary FILE"
    try:
        files = vocabulary.files(str(file))
        _check_vocabulary(vocabulary, files, found.config, file)
    except UserError as error:
        if given is not None:
            raise
        return {}, [], f"the text tokenizer beside the weights is left out: {error}"
    within = {VOCABULARY, MERGES} if file.name == TOKENIZER else {VOCABULARY}
    beside = [file.with_name(name) for name in files if file.suffix == ".json" and name not in within]
    return packed(vocabulary, files), [file, *beside], ""


def _check_vocabulary(vocabulary: ClipBpe | BartBpe, files: Mapping[str, bytes], config: Any, file: Path) -> None:
    """Raises UserError for a text tokenizer that is not the model's.

    A model that reads a text's end by its id must find it where the tokenizer puts it, and an empty caption that
    guidance was learned with must be the tokenizer's. How captions are cleaned, and the packages for it, is no matter.
    """
    plain = vocabulary if isinstance(vocabulary, ClipBpe) else BartBpe()
    tokenizer = plain.tokenizer(files, config.text_length)
    rows = config.vocab_size if isinstance(config, ClipConfig) else config.text_vocab
    empty = tokenizer.encode_batch([""])  # [1 T]
    if tokenizer.vocab_size > rows:
        raise UserError(f"{file}: expected at most {rows} ids, as many as the model has, got {tokenizer.vocab_size}")
    if isinstance(config, ClipConfig):
        wrong = int(config.end_of_text.positions(jnp.asarray(empty))[0]) != 1
    else:
        wrong = (*config.empty_caption, config.pad_id) != tuple(empty[0, : len(config.empty_caption) + 1].tolist())
    if wrong:
        raise UserError(
            f"{file}: expected the text tokenizer that the model was trained with, got one whose empty text, "
            f"{empty[0, :3].tolist()} ..., it does not read as one"
        )


def _called(found: Published) -> str:
    kind_of_model = type(found.config).__name__.removesuffix("Config")
    return f"{kind_of_model} ({found.name})" if found.name else kind_of_model


def _hashed(path: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return {"name": path.name, "bytes": size, "sha256": digest.hexdigest()}
