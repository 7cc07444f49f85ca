"""``sample --model DIR --prompt TEXT``: sample images, rank them, and write them with their scores and a grid."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.precomputed.conditions import read_npy
from dalle_jax.images.grid import grid
from dalle_jax.images.png import write_png
from dalle_jax.pipelines.embedding_pipeline import Sees
from dalle_jax.pipelines.karlo import Karlo
from dalle_jax.pipelines.load.pipeline import AnyPipeline, load_pipeline
from dalle_jax.pipelines.prompts import Prompt, PromptReader, TextPrompts
from dalle_jax.pipelines.request import Generation, RequestOptions
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.storage import Place, write_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "--model",
        type=storage.reachable,
        required=True,
        help="the folder of a demo (runs/demo, runs/demo-unclip), of a trained transformer, or of imported weights",
    )
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", action="append", metavar="TEXT", help="a prompt; may be given several times")
    prompts.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with one prompt per line")
    prompts.add_argument(
        "--class-id",
        action="append",
        type=int,
        metavar="N",
        help="a class number, for a model whose prompts are classes",
    )
    prompts.add_argument(
        "--features", action="append", type=Path, metavar="FILE",
        help="a .npy file of the text encoder's features of a caption, [tokens width], or of several captions",
    )  # fmt: skip
    parser.add_argument(
        "--caption",
        action="append",
        metavar="TEXT",
        help="the text by which CLIP ranks the images, one for each --class-id or --features",
    )
    add_option_flags(parser)
    parser.add_argument(
        "--given-image", type=Path, metavar="IMAGE", help="an image whose top part is kept; the rest is sampled"
    )
    parser.add_argument(
        "--given-rows",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="the share of that image's rows to keep, from the top (default 0.5)",
    )
    parser.add_argument(
        "--image-tokenizer",
        type=storage.reachable,
        metavar="DIR",
        help="the folder of an image tokenizer to use instead of the model's",
    )
    parser.add_argument(
        "--clip", type=storage.reachable, metavar="DIR", help="the folder of a CLIP to use instead of the model's"
    )
    add_decoder_flags(parser)
    parser.add_argument("--batch", type=int, default=64, help="number of images to sample in one call (default 64)")
    parser.add_argument("--out", type=storage.reachable, required=True, help="the folder to write to")


def add_option_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each field of ``RequestOptions``, with the field's type or choices, default and help text."""
    types = get_type_hints(RequestOptions)
    for field in fields(RequestOptions):
        accepted = get_args(types[field.name]) or (types[field.name],)
        choices = accepted if isinstance(accepted[0], str) else None
        kind = str if choices else int if int in accepted else float
        default = "" if field.default is None else f" (default {field.default})"
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(
            flag, type=kind, choices=choices, default=field.default, help=field.metadata["help"] + default
        )


def add_decoder_flags(parser: argparse.ArgumentParser) -> None:
    """Add the choices of an unCLIP's decoder."""
    parser.add_argument(
        "--sees", choices=get_args(Sees), help="the inputs of an unCLIP's decoder (default: the embedding)"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="steps of an unCLIP's decoder (default: its own)")


def run(args: argparse.Namespace) -> int:
    """Sample images, and write them with their scores and a grid."""
    prompts = _prompts(args)
    storage.check_output(args.out)
    pipeline = load_pipeline(
        args.model, args.image_tokenizer, args.clip, batch=args.batch, sees=args.sees, steps=args.steps
    )
    generations = pipeline(
        prompts,
        given_image=args.given_image,
        given_rows=args.given_rows,
        caption=args.caption,
        **{field.name: getattr(args, field.name) for field in fields(RequestOptions)},
    )
    write_generations(generations, args.out)
    for line in truncation_warnings(pipeline, prompts, args.caption):
        print(line, file=sys.stderr)
    print(f"{args.out}/grid.png")
    return 0


def truncation_warnings(
    pipeline: AnyPipeline, prompts: Sequence[Prompt], captions: Sequence[str] | None
) -> Iterator[str]:
    """Yield a warning if the transformer or the decoder truncates prompts, and one if CLIP truncates texts."""
    texts = captions or [one for one in prompts if isinstance(one, str)]
    readers: list[tuple[str, PromptReader, Sequence[Prompt]]] = []
    if isinstance(pipeline, TextToImage):
        readers.append(("the transformer", pipeline.prompts, prompts))
    elif isinstance(pipeline, Karlo):
        readers.append(("the text encoder", pipeline.prompts, prompts))
    elif pipeline.sees != "embedding":
        readers.append(("the decoder", pipeline.prompts, prompts))
    if pipeline.ranker is not None:
        readers.append(("CLIP", TextPrompts(pipeline.ranker.text), texts))
    for name, reader, given in readers:
        if given and (count := reader.truncated(given)):
            yield f"WARNING: {count} of {len(given)} prompts were truncated to the {reader.length} tokens of {name}"


def write_generations(generations: list[Generation], out: Place) -> None:
    """Write a PNG per kept image, then ``grid.png``, then ``scores.jsonl``, which marks the folder as complete."""
    lines, images, captions = [], [], []
    for number, one in enumerate(generations):
        for rank, image in enumerate(one.pixels):
            name = f"{number:04d}_{rank:02d}.png"
            score = None if one.scores is None else round(float(one.scores[rank]), 6)
            write_png(out / name, image, {"prompt": one.prompt})
            record = {"file": name, "prompt": one.prompt, "candidate": int(one.chosen[rank]), "score": score}
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
            images.append(image)
            captions.append(one.prompt if rank == 0 else "")
    columns = max(len(one.pixels) for one in generations)
    scale = max(1, 128 // images[0].shape[0])
    write_png(out / "grid.png", grid(images, columns=columns, captions=captions, scale=scale))
    write_bytes(out / "scores.jsonl", "".join(lines).encode())


def _prompts(args: argparse.Namespace) -> tuple[Prompt, ...]:
    if args.prompt or args.class_id is not None:
        return tuple(args.prompt or args.class_id)
    if args.features:
        return tuple(features for path in args.features for features in read_features(path))
    try:
        text = args.prompts.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{args.prompts}: expected a text file in UTF-8, got an invalid byte at position {error.start}"
        ) from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise UserError(f"{args.prompts}: expected one prompt per line, got only blank lines")
    return tuple(prompts)


def read_features(path: Path) -> list[np.ndarray]:
    """Return the features [t c] of each caption in a ``.npy`` file.

    The file has the features of one caption [t c], or of several captions [n t c].
    """
    found = read_npy(path)
    if found.ndim not in (2, 3) or not np.issubdtype(found.dtype, np.floating):
        raise UserError(
            f"{path}: expected floats [tokens width] of a caption, or [captions tokens width], "
            f"got {found.dtype.name}{list(found.shape)}"
        )
    return list(found if found.ndim == 3 else found[None])
