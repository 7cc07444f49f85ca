"""``sample --model DIR --prompt TEXT``: images, ranked, with their scores and a grid."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.precomputed.conditions import read_npy
from dalle_jax.images.grid import grid
from dalle_jax.images.png import write_png
from dalle_jax.pipelines.load.pipeline import load_pipeline
from dalle_jax.pipelines.prompts import Prompt
from dalle_jax.pipelines.text_to_image import Generation
from dalle_jax.storage import Place, write_bytes
from dalle_jax.text.tokenizer import TextTokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--model", type=storage.reachable, required=True, help="a folder with pipeline.gin, such as runs/demo"
    )
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", action="append", metavar="TEXT", help="what to draw; may be given several times")
    prompts.add_argument("--prompts", type=Path, metavar="FILE", help="a text file, one prompt a line")
    prompts.add_argument("--class-id", action="append", type=int, metavar="N", help="a class, of a model of classes")
    prompts.add_argument(
        "--features", action="append", type=Path, metavar="FILE",
        help="a .npy of what the model's text encoder says of a caption, [tokens width], or of several",
    )  # fmt: skip
    parser.add_argument(
        "--caption", action="append", metavar="TEXT", help="what CLIP ranks by, for each --class-id or --features"
    )
    parser.add_argument("--candidates", type=int, default=16, help="images drawn for each prompt (default 16)")
    parser.add_argument("--keep", type=int, help="how many of them are kept, best first (default 4, or all if fewer)")
    parser.add_argument("--top-k", type=int, default=0, help="sample among the k likeliest codes (0: all)")
    parser.add_argument(
        "--top-p", type=float, default=1.0, help="sample among the likeliest codes of this share (1: all)"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default 1)")
    parser.add_argument("--guidance", type=float, default=3.0, help="how strongly the prompt is followed (1: off)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beginning", type=Path, metavar="IMAGE", help="an image whose top is kept")
    parser.add_argument("--keep-rows", type=float, default=0.5, metavar="SHARE", help="how much of it (default 0.5)")
    parser.add_argument(
        "--image-tokenizer", type=storage.reachable, metavar="DIR", help="instead of the one that the model names"
    )
    parser.add_argument(
        "--clip", type=storage.reachable, metavar="DIR", help="what ranks, instead of the one that the model names"
    )
    parser.add_argument("--batch", type=int, default=64, help="images drawn in one call (default 64)")
    parser.add_argument("--out", type=storage.reachable, required=True, help="the folder to write to")


def run(args: argparse.Namespace) -> int:
    """Draws and writes."""
    prompts = _prompts(args)
    pipeline = load_pipeline(args.model, args.image_tokenizer, args.clip, batch=args.batch)
    drawn = pipeline(
        prompts,
        candidates=args.candidates,
        keep=args.keep,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        guidance=args.guidance,
        seed=args.seed,
        image=args.beginning,
        caption=args.caption,
        keep_rows=args.keep_rows,
    )
    write_drawn(drawn, args.out)
    readers: dict[str, object] = {"the transformer": pipeline.text}
    if pipeline.ranker is not None:
        readers["CLIP"] = pipeline.ranker.text
    for line in cut_prompts(prompts, readers):
        print(line, file=sys.stderr)
    print(f"{args.out}/grid.png")
    return 0


def cut_prompts(prompts: Sequence[Prompt], readers: Mapping[str, object]) -> Iterator[str]:
    """Yield a line for each of the named readers that cuts prompts to its length."""
    texts = [one for one in prompts if isinstance(one, str)]
    for name, reader in readers.items():
        if texts and isinstance(reader, TextTokenizer):
            cut = sum(length > reader.length for length in reader.lengths(texts))
            if cut:
                yield f"WARNING: {cut} of {len(texts)} prompts were cut to the {reader.length} tokens of {name}"


def write_drawn(drawn: list[Generation], out: Place) -> None:
    """One PNG per kept image, ``grid.png``, and last ``scores.jsonl``, so that where it is, all is."""
    lines, images, captions = [], [], []
    for number, one in enumerate(drawn):
        for rank, image in enumerate(one.pixels):
            name = f"{number:04d}_{rank:02d}.png"
            score = None if one.scores is None else round(float(one.scores[rank]), 6)
            write_png(out / name, image, {"prompt": one.prompt})
            record = {"file": name, "prompt": one.prompt, "candidate": int(one.chosen[rank]), "score": score}
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
            images.append(image)
            captions.append(one.prompt if rank == 0 else "")
    columns = max(len(one.pixels) for one in drawn)
    scale = max(1, 128 // images[0].shape[0])
    write_png(out / "grid.png", grid(images, columns=columns, captions=captions, scale=scale))
    write_bytes(out / "scores.jsonl", "".join(lines).encode())


def _prompts(args: argparse.Namespace) -> tuple[Prompt, ...]:
    if args.prompt or args.class_id is not None:
        return tuple(args.prompt or args.class_id)
    if args.features:
        return tuple(features for path in args.features for features in read_features(path))
    try:
        text = args.prompts.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{args.prompts}: expected a text file in UTF-8, got a byte that is none at {error.start}"
        ) from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise UserError(f"{args.prompts}: expected one prompt a line, got no line with text")
    return tuple(prompts)


def read_features(path: Path) -> list[np.ndarray]:
    """The features [t c] of each caption in a ``.npy`` file, which may hold one or several [n t c]."""
    found = read_npy(path)
    if found.ndim not in (2, 3) or not np.issubdtype(found.dtype, np.floating):
        raise UserError(f"{path}: expected features [t c] or [n t c], got {found.dtype.name}{list(found.shape)}")
    return list(found if found.ndim == 3 else found[None])
