"""Parallel decoding of trained transformers: passes per image, codes that differ, and the time of a pass.

    python benchmarks/parallel_decoding.py codes FOLDER... [--images 1000] [--windows 4 8 16] [--dtype bfloat16]
    python benchmarks/parallel_decoding.py forecasts FOLDER... --forecast HEADS... [--images 1000]
    python benchmarks/parallel_decoding.py times FOLDER... [--forecast HEADS...] [--core 0]

``codes`` samples an image of each caption in slots (sampling/slots.py): with guidance, without, and with half of the
codes given. It counts the codes that differ from those of the same program when a pass accepts one code at a time, and
from those of plain sampling. ``forecasts`` compares the passes with and without forecasting heads, guided. ``times``
measures the passes of a few images on one core, in turn with plain sampling.
"""

import argparse
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array
from dalle_jax.evaluate.metrics.composition import evaluation_captions
from dalle_jax.models.code_generator import CodeGenerator
from dalle_jax.parallel.layout import jit
from dalle_jax.pipelines.load.forecast import add_forecast_heads
from dalle_jax.pipelines.load.models import load_generator
from dalle_jax.pipelines.load.text import load_text
from dalle_jax.sampling.autoregressive import GivenCodes, Settings, image_keys, sample
from dalle_jax.sampling.slots import sample_in_slots


def load(folder: Path, images: int, dtype: str, heads: Path | None = None) -> tuple[CodeGenerator, Array]:
    """Return a transformer with activations of ``dtype``, and the tokens of a caption for each image.

    ``heads`` is the folder of its forecasting heads, which keep their own dtype.
    """
    model = load_generator(folder)
    captions = [one for level in (1, 2) for one in evaluation_captions(level, "seen", -(-images // 2), seed=0)]
    tokens = jnp.asarray(load_text(folder, model.text_length).encode_batch(captions[:images]))
    config = dataclasses.replace(model.config, dtype=dtype, code_width=0)  # the code vectors are folded into the tables
    graph = nnx.split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))[0]
    model = nnx.merge(graph, nnx.split(model)[1])
    if heads is not None:
        add_forecast_heads(model, folder, heads)
    return model, tokens


def compiled(model: CodeGenerator, function: Callable, **options) -> Callable:
    graph, state = nnx.split(model)
    run = jit(lambda state, *rest: function(nnx.merge(graph, state), *rest, **options))
    return lambda *rest: run(state, *rest)


def in_slots(model: CodeGenerator, **options) -> Callable:
    """Compile sampling in slots; the first argument is the largest number of codes that a pass accepts."""
    return compiled(model, lambda generator, most, *rest: sample_in_slots(generator, *rest, most=most, **options))


def calls_of(text: Array, given: GivenCodes | None, args: argparse.Namespace) -> Iterator[tuple]:
    """Yield the arguments of each call."""
    for start in range(0, len(text), args.batch):
        rows = slice(start, start + args.batch)
        count = len(text[rows])
        settings = Settings.of(count, temperature=args.temperature, top_k=args.top_k, guidance=args.guidance)
        own = None if given is None else jax.tree.map(lambda leaf, rows=rows: leaf[rows], given)
        yield text[rows], image_keys(jnp.arange(start, start + count), 1), settings, own


def in_calls(run: Callable, calls: list[tuple], *first: Array) -> tuple[np.ndarray, int]:
    """Return the codes of all calls, and their passes in slots."""
    found = [run(*first, *call) for call in calls]
    if isinstance(found[0], jax.Array):
        return np.concatenate(found), 0
    return np.concatenate([one.codes for one in found]), sum(int(one.passes) for one in found)


def measure_forecasts(folder: Path, heads: Path | None, args: argparse.Namespace) -> None:
    """Print the passes of guided images without and with forecasting heads, and the codes that differ from plain."""
    plain, found = np.zeros(0), {}
    for own in (None, heads):
        model, text = load(folder, args.images, args.dtype, own)
        calls = list(calls_of(text, None, args))
        if own is None:
            plain, _ = in_calls(compiled(model, sample, guided=True), calls)
        for window in args.windows:
            run = in_slots(model, guided=True, window=window, slots=args.slots)
            found[window, own] = in_calls(run, calls, jnp.int32(window))
    for window in args.windows:
        passes = [found[window, own][1] * args.slots / len(plain) for own in (None, heads)]
        wrong = [int((found[window, own][0] != plain).sum()) for own in (None, heads)]
        print(
            f"window {window:2}: {passes[0]:5.2f} passes per image, {passes[1]:5.2f} with heads; of {plain.size} codes "
            f"{wrong[0]} and {wrong[1]} differ from plain sampling",
            flush=True,
        )


def measure_codes(folder: Path, heads: Path | None, args: argparse.Namespace) -> None:
    """Print the passes and the differing codes of guided, half given and unguided images of one model."""
    model, text = load(folder, args.images, args.dtype, heads)
    length = model.grid[0] * model.grid[1]
    calls = list(calls_of(text, None, args))
    plain, _ = in_calls(compiled(model, sample, guided=True), calls)
    measure_case(model, "guided", calls, plain, args, guided=True)
    # half of the codes are those of an image of another caption
    given = GivenCodes(
        jnp.roll(jnp.asarray(plain), 1, axis=0), jax.random.bernoulli(jax.random.key(0), 0.5, (len(text), length))
    )
    calls = list(calls_of(text, given, args))
    plain, _ = in_calls(compiled(model, sample, guided=True), calls)
    measure_case(model, "given codes", calls, plain, args, guided=True)
    calls = list(calls_of(text, None, args))
    plain, _ = in_calls(compiled(model, sample, guided=False), calls)
    measure_case(model, "not guided", calls, plain, args, guided=False)


def measure_case(
    model: CodeGenerator, case: str, calls: list[tuple], plain: np.ndarray, args: argparse.Namespace, *, guided: bool
) -> None:
    for window in args.windows:
        run = in_slots(model, guided=guided, window=window, slots=args.slots)
        quick, passes = in_calls(run, calls, jnp.int32(window))
        slow, most = in_calls(run, calls, jnp.int32(1))
        images = len(quick)
        print(
            f"{case:11} window {window:2}: {passes * args.slots / images:5.2f} passes per image instead of "
            f"{most * args.slots / images:5.2f}; of {quick.size} codes {(quick != slow).sum()} differ from one at a "
            f"time, {(quick != plain).sum()} in {(quick != plain).any(axis=(1, 2)).sum()} images from plain sampling",
            flush=True,
        )


def measure_times(folder: Path, heads: Path | None, args: argparse.Namespace) -> None:
    model, text = load(folder, 16, args.dtype, heads)
    for images in (1, 4, 16):
        arguments = text[:images], image_keys(jnp.arange(images), 1), Settings.of(images, guidance=args.guidance)
        sequential = compiled(model, sample, guided=True)
        runs: dict[int, Callable] = {0: lambda run=sequential, arguments=arguments: run(*arguments)}
        for window in (1, *args.windows):
            run = in_slots(model, guided=True, window=window)
            runs[window] = lambda run=run, w=window, arguments=arguments: run(jnp.int32(w), *arguments)
        passes = {window: int(runs[window]().passes) for window in runs if window}
        passes[0] = model.grid[0] * model.grid[1] - 1
        runs[0]()
        seconds: dict[int, list[float]] = {window: [] for window in runs}
        for _ in range(args.rounds):
            for window, run in runs.items():
                start = time.process_time()
                jax.block_until_ready(run())
                seconds[window].append(time.process_time() - start)
        median = {window: statistics.median(taken) for window, taken in seconds.items()}
        for window, taken in median.items():
            print(
                f"{images:2} images, {f'window {window:2}' if window else 'sequential'}: {passes[window]:2} passes of "
                f"{1e3 * taken / passes[window]:6.2f} ms of CPU time, {median[0] / taken:4.2f} times as fast as "
                "sequential",
                flush=True,
            )


def main() -> None:
    """Print the measure that the first argument names, for each folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=("codes", "forecasts", "times"))
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="run folders of transformers")
    parser.add_argument(
        "--forecast", type=Path, nargs="+", default=[], metavar="HEADS", help="forecasting heads of each FOLDER"
    )
    parser.add_argument("--images", type=int, default=1000, help="number of images of each case (default 1000)")
    parser.add_argument("--windows", type=int, nargs="+", default=[4, 8, 16], help="codes per pass (default 4 8 16)")
    parser.add_argument("--slots", type=int, default=32, help="images side by side (default 32)")
    parser.add_argument("--batch", type=int, default=250, help="images per call (default 250)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the activations")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--core", type=int, default=0, help="the core of the times (default 0)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of the times (default 15)")
    args = parser.parse_args()
    if args.measure == "times":
        os.sched_setaffinity(0, {args.core})  # before jax starts its threads
    print(f"python benchmarks/parallel_decoding.py {' '.join(sys.argv[1:])}")
    measures = {"codes": measure_codes, "forecasts": measure_forecasts, "times": measure_times}
    if args.measure == "forecasts" and not args.forecast:
        parser.error("--forecast: expected the forecasting heads of each FOLDER")
    heads = args.forecast or [None] * len(args.folders)
    if len(heads) != len(args.folders):
        parser.error(f"--forecast: expected {len(args.folders)} folders, one for each FOLDER, got {len(heads)}")
    for folder, own in zip(args.folders, heads, strict=True):
        print(folder.name if own is None else f"{folder.name} with {own.name}")
        measures[args.measure](folder, own, args)


if __name__ == "__main__":
    main()
