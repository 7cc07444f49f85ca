"""Flags and warnings that the commands ``vary``, ``interpolate`` and ``edit`` share."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import cast, get_args, get_type_hints

from dalle_jax import storage
from dalle_jax.commands.flags.mesh_flags import add_mesh_flags, layout_of
from dalle_jax.pipelines.edits.embedding_editor import EmbeddingEditor
from dalle_jax.pipelines.edits.embedding_edits import EmbeddingEdit, EmbeddingEditKeywords, require_editor
from dalle_jax.pipelines.load.pipeline import load_pipeline
from dalle_jax.pipelines.prompts import prompt_warnings


def add_edit_flags(parser: argparse.ArgumentParser, candidates: int, eta: float) -> None:
    """Add the model's folder, the output folder, and a flag for each field of ``EmbeddingEdit``."""
    parser.add_argument(
        "--model", type=storage.reachable, required=True, help="the folder of an unCLIP, such as runs/demo-unclip"
    )
    types, defaults = get_type_hints(EmbeddingEdit), {"candidates": candidates}
    for one in fields(EmbeddingEdit):
        kind = int if int in (types[one.name], *get_args(types[one.name])) else float
        default = defaults.get(one.name, one.metadata.get("default", one.default))
        shown = "" if default is None else f" (default {default})"
        parser.add_argument(
            f"--{one.name}", type=kind, default=defaults.get(one.name), help=one.metadata["help"] + shown
        )
    parser.add_argument(
        "--eta", type=float, default=eta, help=f"share of new noise in the image's own, from 0 to 1 (default {eta:g})"
    )
    parser.add_argument("--clip", type=storage.reachable, metavar="DIR", help="a CLIP that ranks in place of its own")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of the decoder (default: its own)")
    add_mesh_flags(parser)
    parser.add_argument("--batch", type=int, default=64, help="number of images to decode in one call (default 64)")
    parser.add_argument("--out", type=storage.reachable, required=True, help="the folder to write to")


def add_size_flag(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the results' size."""
    parser.add_argument(
        "--original-size",
        action="store_true",
        help="resize the results to the image's middle square (default: the model's size)",
    )


def load_editor(args: argparse.Namespace, verb: str) -> EmbeddingEditor:
    """Check the output folder, and load the unCLIP of ``--model``. Raise UserError for any other model."""
    storage.check_output(args.out)
    layout = layout_of(args.mesh, args.rules)
    return require_editor(load_pipeline(args.model, None, args.clip, args.batch, layout, steps=args.steps), verb)


def edit_options(args: argparse.Namespace) -> EmbeddingEditKeywords:
    """Return the fields of ``EmbeddingEdit`` that flags give; the model has the others."""
    values = {one.name: getattr(args, one.name) for one in fields(EmbeddingEdit)}
    return cast(EmbeddingEditKeywords, {name: value for name, value in values.items() if value is not None})


def warn_of_truncation(editor: EmbeddingEditor, texts: Sequence[str]) -> None:
    """Print a warning if CLIP truncates some of the texts, or knows none of their letters."""
    for line in prompt_warnings(editor.text_reader, "CLIP", texts, "texts"):
        print(line, file=sys.stderr)
