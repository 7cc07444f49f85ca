"""Codes of bulk jobs of even and uneven prompts in slots, and of full calls of plain sampling.

    python benchmarks/uneven_bulk.py --model runs/demo --images 384 --most 32

The jobs have prompts of 1 to ``--most`` candidates, of 16 and of one. Every side computes the codes alone, in turn. A
call of plain sampling has 16 candidates of each prompt and ``--batch`` images, so that it computes no other image.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from harness import cpu_model

from dalle_jax.models.code_generator import CodeGenerator
from dalle_jax.pipelines.bulk.device_engine import DeviceEngine
from dalle_jax.pipelines.bulk.prompt_files import NumberedRequest, Survey
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.load.models import load_generator
from dalle_jax.pipelines.load.pipeline import load_pipeline
from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.sampling.autoregressive import Settings, image_keys, sample
from dalle_jax.sampling.options import Decoding
from dalle_jax.scenes.grammar import COLOURS, SHAPES
from dalle_jax.storage import place

NAMES = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]


def job_of(counts: list[int], decoding: Decoding) -> tuple[list[NumberedRequest], Survey]:
    """Return prompts with these numbers of candidates, and their survey."""
    options = [
        RequestOptions(candidates=count, seed=number, guidance=2.0, keep=1, decoding=decoding)
        for number, count in enumerate(counts)
    ]
    requests = [NumberedRequest(n, Request(NAMES[n % len(NAMES)], one)) for n, one in enumerate(options)]
    survey = Survey(
        prompts=len(counts), sha256="", candidates={count: counts.count(count) for count in counts},
        kept=len(counts), most_kept=1, guided=True, negative=False, ignored=(),
    )  # fmt: skip
    return requests, survey


def in_slots(pipeline: TextToImage, requests: list[NumberedRequest], survey: Survey) -> Callable[[], None]:
    """Return a function that computes the codes of a job in the slots that it chooses."""
    window = pipeline.window(requests[0].request.options, pipeline.batch, survey.guided)
    queue = DeviceEngine(pipeline, survey).queue(window)

    def run() -> None:
        for batch in queue.batches(iter(requests)):
            batch.codes.block_until_ready()

    return run


def in_calls(pipeline: TextToImage, network: CompiledNetwork[CodeGenerator], images: int) -> Callable[[], None]:
    """Return a function that computes as many codes by full calls of ``autoregressive.sample``."""
    rows = pipeline.batch // 16
    plain = network.jit(lambda generator, text, keys, settings: sample(generator, text, keys, settings, guided=True))

    def run() -> None:
        for first in range(0, images // 16, rows):
            text = pipeline.prompts.read([NAMES[(first + row) % len(NAMES)] for row in range(rows)])
            keys = image_keys(jnp.arange(first, first + rows, dtype=jnp.uint32), 16)
            jax.block_until_ready(plain(jnp.asarray(text), keys, Settings.of(rows, guidance=2.0)))

    return run


def main() -> None:
    """Print the CPU milliseconds per image that was asked for, of all sides."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="runs/demo")
    parser.add_argument("--images", type=int, default=384, help="images of each job, about (default 384)")
    parser.add_argument("--most", type=int, default=32, help="largest number of candidates (default 32)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--decoding", default="auto", choices=("auto", "sequential", "jacobi"))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    pipeline = load_pipeline(place(given.model), batch=given.batch)
    assert isinstance(pipeline, TextToImage)
    chosen = random.Random(0)
    uneven: list[int] = []
    while sum(uneven) < given.images:
        uneven.append(chosen.randint(1, given.most))
    jobs = {f"1 to {given.most} each": uneven, "16 each": [16] * (given.images // 16), "1 each": [1] * given.images}
    sides = {name: in_slots(pipeline, *job_of(counts, given.decoding)) for name, counts in jobs.items()}
    images = {name: sum(counts) for name, counts in jobs.items()} | {"full calls": given.images}
    sides["full calls"] = in_calls(
        pipeline, CompiledNetwork(load_generator(place(given.model) / "transformer")), given.images
    )
    for run in sides.values():
        run()  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(given.rounds):
        for name, run in sides.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    print(json.dumps({
        "cpu": cpu_model(),
        "images": images,
        "cpu_milliseconds_per_image": {
            name: round(1e3 * statistics.median(taken) / images[name], 2) for name, taken in seconds.items()
        },
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
