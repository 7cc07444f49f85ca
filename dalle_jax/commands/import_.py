"""``import KIND SOURCE DIR``: published weights to a checkpoint folder that every command takes."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from flax import nnx

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.load import ModelFile, build
from dalle_jax.pretrained.mapping import fill
from dalle_jax.pretrained.publisher import KINDS, Published, kind
from dalle_jax.train.save_weights import save_weights

SOURCE_FILE = "source.json"
CHUNK_BYTES = 1 << 22


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    kinds = "; ".join(f"{one.name}: {one.help}" for one in KINDS)
    parser.add_argument("kind", metavar="KIND", help=kinds)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the file or folder with the published weights")
    parser.add_argument("out", type=storage.reachable, metavar="DIR", help="the folder to make")
    parser.add_argument("--licence", metavar="TEXT", help="the licence of the weights, where the source does not say")
    parser.add_argument("--fsdp", type=int, default=1, help="devices over which the weights are split (default 1)")


def run(args: argparse.Namespace) -> int:
    """Reads, checks, lays out and writes."""
    chosen = kind(args.kind)
    if not args.source.exists():
        raise UserError(f"{args.source}: expected {chosen.help}, found nothing there")
    found = chosen.read(args.source)
    module = nnx.eval_shape(lambda: build(found.config, nnx.Rngs(0)))
    layout = None if args.fsdp == 1 else Layout(make_mesh(Mesh(data=1, fsdp=args.fsdp)), Rules())
    left = fill(module, found.tensors, found.rules, found.ignored, layout)
    licence = args.licence or found.licence
    record = {
        "kind": chosen.name,
        "name": found.name,
        "licence": licence,
        "tensors": len(found.tensors) + len(found.tensors.left),
        "ignored": left,
        "files": [_hashed(path) for path in found.files],
    }
    text = render(ModelFile(model=found.config))
    files = {"model.gin": text.encode(), SOURCE_FILE: (json.dumps(record, indent=2) + "\n").encode(), **found.beside}
    save_weights(args.out, module, text, files)
    used = len(found.tensors) + len(found.tensors.left) - len(left)
    print(f"{args.out}: {_called(found)}, {used} tensors used, {len(left)} ignored, licence: {licence}")
    return 0


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
