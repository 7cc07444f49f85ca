"""``import KIND SOURCE DIR``: convert published weights to a checkpoint folder that every command loads."""

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypedDict

import jax.numpy as jnp
from flax import nnx

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.folder_lock import locked
from dalle_jax.models.clip import ClipConfig, ClipTextConfig
from dalle_jax.models.dalle_bart import DalleBartConfig
from dalle_jax.models.glide import GlideConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.imported.glide import GlideFile
from dalle_jax.pipelines.imported.karlo import KarloFile
from dalle_jax.pipelines.load.glide_pipeline import GLIDE
from dalle_jax.pipelines.load.karlo_pipeline import KARLO
from dalle_jax.pipelines.load.models import ModelFile
from dalle_jax.pipelines.load.text import IMPORTED, packed
from dalle_jax.pretrained.mapping import fill
from dalle_jax.pretrained.publisher import (
    KINDS,
    WHOLE_KINDS,
    Kind,
    Published,
    WholeKind,
    check_place,
    find_any_kind,
    find_kind,
)
from dalle_jax.pretrained.publishers.karlo_folder import published_sizes
from dalle_jax.storage import Place
from dalle_jax.text.bart_bpe import BartBpe
from dalle_jax.text.clip_bpe import ClipBpe
from dalle_jax.text.glide_bpe import ENCODER, GlideBpe, pairs_file
from dalle_jax.text.vocabulary_files import MERGES, TOKENIZER, VOCABULARY
from dalle_jax.train.checkpoints.checkpoints import FOLDER as CHECKPOINTS
from dalle_jax.train.checkpoints.recovery import whole_steps
from dalle_jax.train.checkpoints.save_weights import save_weights

ReadsText: TypeAlias = ClipConfig | ClipTextConfig | DalleBartConfig | GlideConfig
"""Configs of the networks whose text tokenizer is imported with them."""
CHUNK_BYTES = 1 << 22


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    kinds = "; ".join(f"{one.name}: {one.help}" for one in (*KINDS, *WHOLE_KINDS))
    parser.add_argument("kind", metavar="KIND", help=kinds)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="file or folder with the published weights")
    parser.add_argument("out", type=storage.reachable, metavar="DIR", help="folder to create")
    parser.add_argument("--licence", metavar="TEXT", help="licence of the weights, if the source does not state one")
    parser.add_argument(
        "--vocabulary", type=Path, metavar="FILE",
        help="text tokenizer's file, if none is next to the weights: CLIP's bpe_simple_vocab_16e6.txt.gz, or "
        "vocab.json with merges.txt in the same folder, or tokenizer.json",
    )  # fmt: skip
    parser.add_argument(
        "--preset", metavar="NAME", help="with open-clip, the model that a file of bare weights is (ViT-B-32, RN50, …)"
    )
    parser.add_argument("--fsdp", type=int, default=1, help="devices that the weights are sharded over (default 1)")


def run(args: argparse.Namespace) -> int:
    """Read published weights, check them against the networks, and write a checkpoint for each."""
    chosen = find_any_kind(args.kind)
    if not args.source.exists():
        raise UserError(f"{args.source}: expected {chosen.help}, got a path that does not exist")
    with locked(args.out, "import"):
        if isinstance(chosen, WholeKind):
            if args.preset is not None:
                raise UserError(f"--preset: expected none, because {chosen.name} has no presets, got {args.preset}")
            check_place(args.source, "folder", chosen.help)
            _import_parts(args, chosen)
        else:
            _import(chosen, chosen.read(args.source, args.preset), args.out, args, args.vocabulary)
    return 0


def _import_parts(args: argparse.Namespace, chosen: WholeKind) -> None:
    """Write a model folder for each part, then the pipeline's file, which marks the folder as complete.

    Parts that an interrupted import of the same files has written are kept.
    """
    file = _pipeline_file(args.source, chosen)
    parts = [one for one in chosen.parts if not one.optional or (args.source / one.source).exists()]
    if missing := ", ".join(one.source for one in parts if not (args.source / one.source).exists()):
        raise UserError(f"{args.source}: expected {chosen.help}, got no {missing}")
    found = [(find_kind(one.kind), one, find_kind(one.kind).read(args.source / one.source)) for one in parts]
    for kind, part, published in found:
        reads_text = published.vocabulary is not None
        _import(kind, published, args.out / part.folder, args, args.vocabulary if reads_text else None, resumes=True)
    storage.write(args.out / (KARLO if isinstance(file, KarloFile) else GLIDE), render(file).encode())
    print(f"{args.out}: {chosen.name}, images of {file.side} px")


def _pipeline_file(source: Path, chosen: WholeKind) -> KarloFile | GlideFile:
    """Return the content of the pipeline's file, with its image sizes."""
    if chosen.name != "karlo":
        return GlideFile()
    sizes = published_sizes(source)
    return KarloFile(sizes.decoder_side, sizes.side)


def _import(
    chosen: Kind, found: Published, out: Place, args: argparse.Namespace, vocabulary: Path | None, resumes: bool = False
) -> None:
    """Check published weights, map them to this package's variables and write a model folder.

    With ``resumes``, a folder that has the same model from the same files is kept.
    """
    module = nnx.eval_shape(lambda: found.config.build(nnx.Rngs(0)))
    layout = None if args.fsdp == 1 else Layout(make_mesh(Mesh(data=1, fsdp=args.fsdp)), Rules())
    unused = fill(module, found.tensors, found.rules, found.ignored, layout)
    licence = args.licence or found.licence
    text = _text_tokenizer(found, vocabulary, chosen.name)
    record = {
        "kind": chosen.name,
        "name": found.name,
        "licence": licence,
        "tensors": len(found.tensors) + len(found.tensors.skipped),
        "ignored": unused,
        "files": [_hash_file(path) for path in (*found.files, *text.sources)],
    }
    model_file = render(ModelFile(model=found.config, sampling=found.sampling))
    source_json = (json.dumps(record, indent=2) + "\n").encode()
    files = {"model.gin": model_file.encode(), IMPORTED: source_json, **text.files}
    if resumes and _is_imported(out, files):
        print(f"{out}: kept, since it was imported from the same files before")
        return
    save_weights(out, module, model_file, files)
    place = f" (under {found.tensors.prefix!r} in the file)" if found.tensors.prefix else ""
    used = len(found.tensors) + len(found.tensors.skipped) - len(unused)
    print(f"{out}: {_model_name(found)}, {used} tensors used{place}, {len(unused)} ignored, licence: {licence}")
    if text.message:
        print(f"{out}: {text.message}")


def _is_imported(out: Place, files: Mapping[str, bytes]) -> bool:
    """Return whether a folder has a checkpoint, which is written last, and files of the same content."""
    return bool(whole_steps(storage.absolute(out) / CHECKPOINTS)) and all(
        storage.exists(out / name) and storage.read(out / name) == content for name, content in files.items()
    )


class _TextTokenizer(NamedTuple):
    """The text tokenizer's files to write, the files they came from, and a message for the user."""

    files: dict[str, bytes]
    sources: list[Path]
    message: str


def _text_tokenizer(found: Published, given: Path | None, kind_name: str) -> _TextTokenizer:
    """Read the text tokenizer: the file ``given``, or the file next to the weights.

    A tokenizer that does not fit the model raises UserError if it was ``given``, and is left out otherwise.
    """
    vocabulary, config = found.vocabulary, found.config
    if vocabulary is None or not isinstance(config, ReadsText):
        if given is not None:
            raise UserError(f"--vocabulary: expected none, because {kind_name} reads no text, got {given}")
        return _TextTokenizer({}, [], "")
    file = given or found.vocabulary_file
    if file is None:
        message = "no text tokenizer is next to the weights; to use prompts, import with --vocabulary FILE"
        return _TextTokenizer({}, [], message)
    try:
        files = vocabulary.files(str(file))
        _check_vocabulary(vocabulary, files, config, file)
    except UserError as error:
        if given is not None:
            raise
        return _TextTokenizer({}, [], f"the text tokenizer next to the weights is left out: {error}")
    within = {VOCABULARY, MERGES} if file.name == TOKENIZER else {VOCABULARY}
    others = [file.with_name(name) for name in files if file.suffix == ".json" and name not in within]
    if file.name.startswith(ENCODER):
        others = [pairs_file(file)]
    return _TextTokenizer(packed(vocabulary, files), [file, *others], "")


def _check_vocabulary(
    vocabulary: ClipBpe | BartBpe | GlideBpe,
    files: Mapping[str, bytes],
    config: ReadsText,
    file: Path,
) -> None:
    """Raise UserError for a text tokenizer that does not fit the model.

    CLIP must find the end of the text where the tokenizer puts it. DALL·E mini's empty caption, which guidance uses,
    must be the tokenizer's. GLIDE fills texts with its last id.
    The check ignores how captions are cleaned, which may need packages that are missing.
    """
    plain = BartBpe() if isinstance(vocabulary, BartBpe) else vocabulary
    tokenizer = plain.tokenizer(files, config.text_length)
    rows = config.text_vocab if isinstance(config, DalleBartConfig) else config.vocab_size
    empty = tokenizer.encode_batch([""])  # [1 T]
    if tokenizer.vocab_size > rows:
        raise UserError(f"{file}: expected at most {rows} ids, as many as the model has, got {tokenizer.vocab_size}")
    if isinstance(config, ClipConfig | ClipTextConfig):
        wrong = int(config.end_of_text.positions(jnp.asarray(empty))[0]) != 1
    elif isinstance(config, GlideConfig):
        wrong = tokenizer.pad_id != rows - 1
    else:
        wrong = (*config.empty_caption, config.pad_id) != tuple(empty[0, : len(config.empty_caption) + 1].tolist())
    if wrong:
        raise UserError(
            f"{file}: expected the text tokenizer that the model was trained with, got one that encodes the "
            f"empty text as {empty[0, :3].tolist()} ..., which the model does not read as empty"
        )


def _model_name(found: Published) -> str:
    network = type(found.config).__name__.removesuffix("Config")
    return f"{network} ({found.name})" if found.name else network


class _FileRecord(TypedDict):
    """Entry of a source file in ``source.json``."""

    name: str
    bytes: int
    sha256: str


def _hash_file(path: Path) -> _FileRecord:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return {"name": path.name, "bytes": size, "sha256": digest.hexdigest()}
