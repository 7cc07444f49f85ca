"""``interpolate --model DIR``: frames between two images or two texts, as PNGs, a strip and a GIF."""

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from dalle_jax.commands.edits.embedding_flags import (
    add_edit_flags,
    add_size_flag,
    edit_options,
    load_editor,
    warn_of_truncation,
)
from dalle_jax.config.errors import UserError
from dalle_jax.images.grid import grid
from dalle_jax.images.png import write_png
from dalle_jax.pipelines.edits.interpolate import Interpolation, interpolate_images, interpolate_texts
from dalle_jax.storage import Place, write_bytes

MILLISECONDS = 150
"""The duration of a frame in the GIF; the two ends stay four times as long."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    ends = parser.add_mutually_exclusive_group(required=True)
    ends.add_argument("--image", action="append", type=Path, help="an end; to be given twice")
    ends.add_argument("--text", action="append", help="an end; to be given twice")
    parser.add_argument("--frames", type=int, default=8, help="number of frames, both ends included (default 8)")
    add_size_flag(parser)
    add_edit_flags(parser, candidates=1, eta=0.0)


def run(args: argparse.Namespace) -> int:
    """Decode the frames, and write them with a strip and a GIF of the best path."""
    editor = load_editor(args, "interpolate")
    options = edit_options(args)
    if args.text is not None:
        for flag in (flag for flag, given in (("original-size", args.original_size), ("eta", args.eta)) if given):
            raise UserError(f"--{flag}: expected no flag between texts, which have no image's size or noise")
        found = interpolate_texts(editor, args.text, frames=args.frames, **options)
    else:
        found = interpolate_images(
            editor, args.image, frames=args.frames, eta=args.eta, original_size=args.original_size, **options
        )
    write_interpolation(found, args.out)
    warn_of_truncation(editor, args.text or [])
    print(f"{args.out}/strip.png")
    return 0


def write_interpolation(found: Interpolation, out: Place) -> None:
    """Write a PNG per frame, ``strip.png`` with a row per path, ``frames.gif`` and ``scores.jsonl``."""
    lines = []
    for path, frames in enumerate(found.frames):
        score = None if found.scores is None else round(float(found.scores[path]), 6)
        for number, (image, share) in enumerate(zip(frames, found.shares, strict=True)):
            name = f"{path:04d}_{number:02d}.png"
            write_png(out / name, image, {"prompt": found.title})
            record = {"file": name, "prompt": found.title, "share": round(float(share), 6), "score": score}
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    every = found.frames.reshape(-1, *found.frames.shape[2:])
    scale = max(1, 64 // every.shape[1])
    write_png(out / "strip.png", grid(list(every), columns=len(found.shares), scale=scale))
    write_bytes(out / "frames.gif", encode_gif(found.frames[0]))
    write_bytes(out / "scores.jsonl", "".join(lines).encode())


def encode_gif(frames: np.ndarray) -> bytes:
    """Encode frames, uint8 [F H W 3], as a GIF that runs forth and back without end."""
    images = [Image.fromarray(one) for one in (*frames, *frames[-2:0:-1])]
    durations = [MILLISECONDS] * len(images)
    durations[0] = durations[len(frames) - 1] = 4 * MILLISECONDS
    out = io.BytesIO()
    images[0].save(out, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    return out.getvalue()
