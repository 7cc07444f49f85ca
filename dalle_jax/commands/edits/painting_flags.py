"""Flags and output files that the commands ``inpaint`` and ``outpaint`` share."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from dalle_jax import storage
from dalle_jax.commands.flags.mesh_flags import add_mesh_flags, layout_of
from dalle_jax.commands.sample import add_decoder_flags, add_option_flags, truncation_warnings
from dalle_jax.config.errors import UserError
from dalle_jax.images.contact import GREY, contact_cell
from dalle_jax.images.grid import grid
from dalle_jax.images.png import write_png
from dalle_jax.pipelines.edits.filler import HoleFiller
from dalle_jax.pipelines.edits.painting import CONTEXT, FilledImage
from dalle_jax.pipelines.imported.glide import GlidePipeline
from dalle_jax.pipelines.load.pipeline import AnyPipeline, load_pipeline
from dalle_jax.pipelines.pixel_unclip import PixelUnclip
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.pipelines.unclip import Unclip
from dalle_jax.storage import Place, write_bytes

CELL = 192
"""The side in pixels of the images in the grid."""


def add_painting_flags(parser: argparse.ArgumentParser) -> None:
    """Add the model, the image, the prompt, the options of sampling and the output folder."""
    parser.add_argument(
        "--model",
        type=storage.reachable,
        required=True,
        help="the folder of a demo (runs/demo, runs/demo-unclip), of a trained transformer, or of an imported one",
    )
    parser.add_argument("--image", type=Path, required=True, metavar="IMAGE", help="the image, of any size")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="a description of the filled part")
    parser.add_argument(
        "--context",
        type=float,
        default=CONTEXT,
        metavar="SHARE",
        help="width of what the model sees on each side of a hole or a tile, as a share of its longer side (default "
        f"{CONTEXT:.3g})",
    )
    add_option_flags(parser)
    parser.add_argument("--clip", type=storage.reachable, metavar="DIR", help="replaces the CLIP of the model")
    add_decoder_flags(parser)
    add_mesh_flags(parser)
    parser.add_argument("--batch", type=int, default=64, help="number of images to fill in one call (default 64)")
    parser.add_argument("--out", type=storage.reachable, required=True, help="the folder to write to")


def load_painter(args: argparse.Namespace) -> TextToImage | Unclip | PixelUnclip | GlidePipeline:
    """Check the output folder, and load the pipeline. Raise UserError for one that fills no holes."""
    storage.check_output(args.out)
    layout = layout_of(args.mesh, args.rules)
    pipeline = load_pipeline(args.model, None, args.clip, args.batch, layout, sees=args.sees, steps=args.steps)
    if not isinstance(pipeline, HoleFiller):
        raise UserError(f"{args.model}: expected a model that fills holes, got {type(pipeline).__name__}, which cannot")
    return pipeline


def write_filled(result: FilledImage, pipeline: AnyPipeline, out: Place) -> None:
    """Write each result without loss, then ``grid.png``, then ``scores.jsonl``; print warnings and the grid's path."""
    lines, cells = [], [contact_cell(_shown_hole(result), CELL)]
    for rank, image in enumerate(result.images):
        name = f"{rank:02d}.{result.source.suffix}"
        score = None if result.scores is None else round(float(result.scores[rank]), 6)
        write_bytes(out / name, result.source.encode(image))
        record = {"file": name, "prompt": result.prompt, "candidate": int(result.chosen[rank]), "score": score}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        cells.append(contact_cell(result.pixels[rank], CELL))
    captions = [f"hole: {result.prompt}", *("" for _ in result.images)]
    write_png(out / "grid.png", grid(cells, columns=min(len(cells), 5), captions=captions))
    write_bytes(out / "scores.jsonl", "".join(lines).encode())
    for line in truncation_warnings(pipeline, [result.prompt], None):
        print(line, file=sys.stderr)
    print(f"{out}/grid.png")


def _shown_hole(result: FilledImage) -> np.ndarray:
    """Return the given image with its hidden pixels crossed out."""
    rows, columns = np.indices(result.hidden.shape)
    stripes = (rows + columns) // max(1, max(result.hidden.shape) // 32) % 2 == 0
    paint = np.where(stripes[..., None], np.array(GREY, np.uint8), np.uint8(160))
    return np.where(result.hidden[..., None], paint, result.source.pixels).astype(np.uint8)
