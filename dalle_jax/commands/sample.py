"""``sample --model DIR --prompt TEXT``: sample images, rank them, and write them with their scores and a grid.

With ``--tars`` it samples in bulk: any number of prompts, from files, to shards (docs/sampling.md).
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import cast, get_args, get_type_hints

import numpy as np

from dalle_jax import storage
from dalle_jax.commands.flags.mesh_flags import add_mesh_flags, bulk_layout, joined_layout
from dalle_jax.commands.flags.reduced_flags import add_reduced_flags, reduced_of
from dalle_jax.config.errors import UserError
from dalle_jax.data.precomputed.conditions import read_npy
from dalle_jax.folder_lock import locked
from dalle_jax.images.grid import grid
from dalle_jax.images.png import write_png
from dalle_jax.parallel import failures, hosts
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.bulk.job import BulkJob, Option
from dalle_jax.pipelines.bulk.prompt_files import NUMBERS, PromptFiles
from dalle_jax.pipelines.bulk.run_job import interrupted_by_sigterm, run_job
from dalle_jax.pipelines.bulk.shard_writer import require_pyarrow
from dalle_jax.pipelines.embedding_pipeline import Sees
from dalle_jax.pipelines.imported.glide import GlidePipeline
from dalle_jax.pipelines.imported.karlo import Karlo
from dalle_jax.pipelines.load.glide_pipeline import guiding_clip
from dalle_jax.pipelines.load.model_fingerprints import model_fingerprints
from dalle_jax.pipelines.load.pipeline import AnyPipeline, load_pipeline, recommended_sampling
from dalle_jax.pipelines.prompts import Prompt, PromptReader, TextPrompts, prompt_warnings
from dalle_jax.pipelines.request import Generation, Request, RequestKeywords, RequestOptions
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.storage import Place, write_bytes

MOST_IN_MEMORY = 20_000
"""Largest number of candidates that are in memory at once without ``--tars``."""


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
    prompts.add_argument(
        "--prompts",
        action="append",
        metavar="FILE",
        help="a text file with one prompt per line, or rows of .jsonl or .parquet with `prompt` and, where they differ "
        "from the flags, negative_prompt, seed, candidates, keep, temperature, top_k, top_p, guidance, guidance_end; "
        "may be given several times",
    )
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
        "--negative-prompt", metavar="TEXT", help="a text to move away from: guidance's empty prompt is replaced by it"
    )
    parser.add_argument(
        "--tars",
        action="store_true",
        help="sample in bulk: write the images of --prompts to tars, and the scores of all candidates to parquet next "
        "to them; the same command resumes (docs/sampling.md)",
    )
    parser.add_argument(
        "--shard-prompts", type=int, metavar="N", default=250, help="with --tars, prompts in a shard (default 250)"
    )
    parser.add_argument(
        "--together",
        action="store_true",
        help="with --tars, all processes share one --mesh of all their devices and draw the same shard, for a model "
        "that does not fit the devices of one (default: --mesh is that of each process, which draws its own shards)",
    )
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
    _add_replacing_flags(parser)
    _add_guide_flags(parser)
    add_decoder_flags(parser)
    add_reduced_flags(parser)
    add_mesh_flags(parser)
    parser.add_argument("--batch", type=int, default=64, help="number of images to sample in one call (default 64)")
    parser.add_argument("--out", type=storage.reachable, required=True, help="the folder to write to")


def _add_replacing_flags(parser: argparse.ArgumentParser) -> None:
    """Add the folders of models that replace those of the pipeline."""
    parser.add_argument(
        "--image-tokenizer",
        type=storage.reachable,
        metavar="DIR",
        help="the folder of an image tokenizer to use instead of the model's",
    )
    parser.add_argument(
        "--clip", type=storage.reachable, metavar="DIR", help="the folder of a CLIP to use instead of the model's"
    )
    parser.add_argument(
        "--consistency-decoder",
        type=storage.reachable,
        metavar="DIR",
        help="the folder of a consistency decoder, which decodes the image tokenizer's codes or latents in its place",
    )
    parser.add_argument(
        "--forecast",
        type=storage.reachable,
        metavar="DIR",
        help="the folder of forecasting heads of the transformer, for fewer passes of the same codes with jacobi",
    )


def _add_guide_flags(parser: argparse.ArgumentParser) -> None:
    """Add the CLIP that guides."""
    parser.add_argument(
        "--guide-clip",
        type=storage.reachable,
        metavar="DIR",
        help="the folder of a CLIP trained on noised images, which guides GLIDE's base",
    )
    parser.add_argument("--clip-scale", type=float, metavar="S", help="scale of that guidance")


def add_option_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each field of ``RequestOptions``, with the field's type or choices, default and help text."""
    types = get_type_hints(RequestOptions)
    for field in fields(RequestOptions):
        parts = get_args(types[field.name]) or (types[field.name],)
        accepted = [one for part in parts for one in get_args(part) or (part,)]
        choices = [one for one in accepted if isinstance(one, str)] or None
        kind = str if choices else int if int in accepted else float
        default = field.metadata.get("default", field.default)
        shown = "" if default is None else f" (default {default})"
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=kind, choices=choices, help=field.metadata["help"] + shown)


def given_options(args: argparse.Namespace) -> RequestKeywords:
    """Return the fields of ``RequestOptions`` that flags give; the model has the others."""
    values = {field.name: getattr(args, field.name) for field in fields(RequestOptions)}
    return cast(RequestKeywords, {name: value for name, value in values.items() if value is not None})


def add_decoder_flags(parser: argparse.ArgumentParser) -> None:
    """Add the choices of an unCLIP's decoder."""
    parser.add_argument(
        "--sees", choices=get_args(Sees), help="the inputs of an unCLIP's decoder (default: the embedding)"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="steps of an unCLIP's decoder (default: its own)")


def run(args: argparse.Namespace) -> int:
    """Sample images, and write them with their scores and a grid, or with ``--tars`` to shards."""
    if args.tars:
        return sample_in_bulk(args)
    with joined_layout(args) as layout:
        _draw(args, layout)
    return 0


def _draw(args: argparse.Namespace, layout: Layout | None) -> None:
    """Sample on every process; the first one writes."""
    storage.check_output(args.out)
    requests = _requests(args)
    prompts = [one.prompt for one in requests]
    pipeline = load_pipeline(
        args.model, args.image_tokenizer, args.clip, args.batch, layout, sees=args.sees, steps=args.steps,
        consistency_decoder=args.consistency_decoder, guide=guiding_clip(args.guide_clip, args.clip_scale),
        reduced=reduced_of(args), forecast=args.forecast,
    )  # fmt: skip
    if hosts.is_first():
        for line in truncation_warnings(pipeline, prompts, args.caption):
            print(line, file=sys.stderr, flush=True)
    top = None if args.given_image is None else pipeline.given_top(args.given_image, args.given_rows)
    generations = pipeline.draw([replace(one, given_image=top) for one in requests])
    if not hosts.is_first():
        return
    write_generations(generations, args.out)
    passes = [one.passes for one in generations if one.passes is not None]
    if passes and args.decoding == "jacobi":
        print(f"passes of the transformer for the images of a prompt: {min(passes)} to {max(passes)}")
    print(f"{args.out}/grid.png")


def truncation_warnings(
    pipeline: AnyPipeline, prompts: Sequence[Prompt], captions: Sequence[str] | None
) -> Iterator[str]:
    """Yield a warning for each model that truncates prompts or texts, or knows none of their letters."""
    texts = captions or [one for one in prompts if isinstance(one, str)]
    readers: list[tuple[str, PromptReader, Sequence[Prompt]]] = []
    if isinstance(pipeline, TextToImage):
        readers.append(("the transformer", pipeline.prompts, prompts))
    elif isinstance(pipeline, Karlo | GlidePipeline):
        readers.append(("the text encoder", pipeline.prompts, prompts))
    elif pipeline.sees != "embedding":
        readers.append(("the decoder", pipeline.prompts, prompts))
    if pipeline.ranker is not None:
        readers.append(("CLIP", TextPrompts(pipeline.ranker.text), texts))
    for name, reader, given in readers:
        yield from prompt_warnings(reader, name, given)


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


def sample_in_bulk(args: argparse.Namespace) -> int:
    """Sample the unfinished shards of this process, and print what was done."""
    for name in ("prompt", "class_id", "features", "caption", "given_image"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')}: expected none with --tars, which takes texts from --prompts")
    if args.ranker not in (None, "clip"):
        raise UserError(f"--ranker: expected clip with --tars, which scores on the devices by CLIP, got {args.ranker}")
    require_pyarrow()
    storage.check_output(args.out)
    hosts.join()
    with failures.shared():
        layout = bulk_layout(args.mesh, args.rules, args.together)
        files = PromptFiles(args.prompts, _options(args), args.negative_prompt)
        survey = hosts.call_and_share_errors(files.survey)
        folders = (args.model, args.image_tokenizer, args.clip)
        models = hosts.call_and_share_errors(
            lambda: model_fingerprints(*folders, args.consistency_decoder, args.guide_clip)
        )
        given = _options(args)
        options: dict[str, Option] = {name: getattr(given, name) for name in (*NUMBERS, "first")}
        options |= {
            name: getattr(args, name) for name in ("negative_prompt", "sees", "steps", "clip_scale", "weights", "cache")
        }
        job = BulkJob.of(survey, models, options, args.shard_prompts)
        with interrupted_by_sigterm(), locked(args.out, "sample"):

            def load() -> AnyPipeline:
                return load_pipeline(
                    *folders, args.batch, layout, sees=args.sees, steps=args.steps,
                    consistency_decoder=args.consistency_decoder, guide=guiding_clip(args.guide_clip, args.clip_scale),
                    reduced=reduced_of(args), forecast=args.forecast,
                )  # fmt: skip

            line = run_job(load, files, survey, job, args.out, args.together)
    if hosts.is_first():
        print(line)
    return 0


def _options(args: argparse.Namespace) -> RequestOptions:
    """Return the options of the flags, else those recommended for the model, else the defaults."""
    return RequestOptions(**(RequestKeywords(**recommended_sampling(args.model).keywords()) | given_options(args)))


def _requests(args: argparse.Namespace) -> list[Request]:
    """Return the requests of the flags, or of the prompts files."""
    if args.prompts:
        files = PromptFiles(args.prompts, _options(args), args.negative_prompt)
        if (images := files.survey().images) > MOST_IN_MEMORY:
            raise UserError(
                f"--prompts: expected at most {MOST_IN_MEMORY:,} candidates without --tars, got {images:,}; add --tars "
                "for more"
            )
        return [one.request for one in files.requests(lambda _: True)]
    prompts: list[Prompt] = (
        args.prompt or args.class_id or [features for path in args.features or () for features in read_features(path)]
    )
    texts = isinstance(prompts[0], str)
    if args.caption is not None and (texts or len(args.caption) != len(prompts)):
        raise UserError(
            f"--caption: expected one for each --class-id or --features ({0 if texts else len(prompts)}), "
            f"got {len(args.caption)}"
        )
    captions = args.caption or [None] * len(prompts)
    return [
        Request(prompt, _options(args), caption=caption, negative_prompt=args.negative_prompt)
        for prompt, caption in zip(prompts, captions, strict=True)
    ]


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
