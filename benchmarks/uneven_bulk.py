"""Uneven bulk work in blocks of one shape, as ``sample --tars`` draws it, and in slots that images leave and join.

    python benchmarks/uneven_bulk.py --model runs/demo --prompts 40 --most 32

Every prompt has a random number of candidates. All sides compute the codes alone, in turn: blocks with the shape that
the job chooses, blocks of one candidate per row, and slots with one code per pass, as many as a block has images.
Rows that candidates do not fill compute images that nobody asked for.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from harness import cpu_model

from dalle_jax.models.code_generator import CodeGenerator
from dalle_jax.parallel.axes import BATCH
from dalle_jax.pipelines.bulk.block_prompts import BlockPrompts
from dalle_jax.pipelines.bulk.blocks import BlockShape, block_shape, blocks
from dalle_jax.pipelines.bulk.prompt_files import NumberedRequest
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.load.models import load_generator
from dalle_jax.pipelines.load.pipeline import load_pipeline
from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.sampling.autoregressive import GivenCodes, Prefix, Settings, image_keys
from dalle_jax.sampling.slots import Prefilled, sample_prefilled_in_slots
from dalle_jax.scenes.grammar import COLOURS, SHAPES
from dalle_jax.storage import place


def requests_of(prompts: int, most: int) -> list[NumberedRequest]:
    """Return prompts with 1 to ``most`` candidates each."""
    chosen = random.Random(0)
    names = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
    counts = [chosen.randint(1, most) for _ in range(prompts)]
    options = [RequestOptions(candidates=count, seed=number, guidance=2.0) for number, count in enumerate(counts)]
    return [NumberedRequest(n, Request(names[n % len(names)], one)) for n, one in enumerate(options)]


def in_blocks(pipeline: TextToImage, work: list[NumberedRequest], shape: BlockShape) -> Callable[[], int]:
    """Return a function that computes all blocks, and the images in them."""
    length = pipeline.grid[0] * pipeline.grid[1]
    given = GivenCodes(jnp.zeros((*shape, length), jnp.int32), jnp.zeros((shape.rows, length), bool))

    keys_of = jax.jit(image_keys, static_argnums=1)

    def run() -> int:
        prompts, computed = BlockPrompts(pipeline, shape, guided=True, negative=False), 0
        for block in blocks(iter(work), shape):
            rows = block + [block[-1]] * (shape.rows - len(block))
            options = [row.request.options for row in rows]
            keys = keys_of(
                jnp.array([one.seed for one in options], jnp.uint32), shape.candidates,
                jnp.array([row.first for row in rows]),
            )  # fmt: skip
            prefix = prompts.read(rows).prefix
            jax.block_until_ready(pipeline.sample_device(prefix, keys, Settings.stack(options), given, True, 1))
            computed += shape.rows * shape.candidates
        return computed

    return run


def in_slots(
    pipeline: TextToImage, network: CompiledNetwork[CodeGenerator], work: list[NumberedRequest], slots: int
) -> Callable[[], int]:
    """Return a function that computes all images in slots."""
    options = [one.request.options for one in work]
    numbers = jnp.array(np.repeat(np.arange(len(work)), [one.candidates for one in options]))
    keys = jnp.concatenate([image_keys(jnp.array([one.seed], jnp.uint32), one.candidates)[0] for one in options])
    settings = jax.tree.map(lambda leaf: leaf[numbers], Settings.stack(options))
    run_slots = network.jit(
        lambda generator, prefix, keys, settings: sample_prefilled_in_slots(
            generator, Prefilled.of(prefix, guided=True), keys, settings, guided=True, window=1, slots=slots
        )
    )

    def run() -> int:
        text = jnp.asarray(pipeline.prompts.read([one.request.prompt for one in work]))
        prefix = pipeline.prefill_device(text, None, 1, True)
        rows = jnp.concatenate([numbers, numbers + len(work)])
        prefix = jax.tree.map(lambda leaf: leaf[rows], prefix)
        jax.block_until_ready(run_slots(Prefix(*prefix), keys[:, None], settings))
        return len(numbers)

    return run


def main() -> None:
    """Print the CPU seconds per image that was asked for, of all sides."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="runs/demo")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--most", type=int, default=32, help="largest number of candidates (default 32)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    pipeline = load_pipeline(place(given.model), batch=given.batch)
    assert isinstance(pipeline, TextToImage)
    network = CompiledNetwork(load_generator(place(given.model) / "transformer"))
    work = requests_of(given.prompts, given.most)
    counts = [one.request.options.candidates for one in work]
    prefix = pipeline.prompts.length / (pipeline.grid[0] * pipeline.grid[1])
    shape = block_shape({n: counts.count(n) for n in counts}, given.batch, prefix, pipeline.layout.parts(BATCH))
    single = BlockShape(given.batch, 1)
    sides = {
        "blocks": in_blocks(pipeline, work, shape),
        "rows of one candidate": in_blocks(pipeline, work, single),
        "slots": in_slots(pipeline, network, work, given.batch),
    }
    computed = {name: run() for name, run in sides.items()}  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(given.rounds):
        for name, run in sides.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    print(json.dumps({
        "cpu": cpu_model(),
        "images": sum(counts),
        "shape": list(shape),
        "computed": computed,
        "cpu_milliseconds_per_image": {
            name: round(1e3 * statistics.median(taken) / sum(counts), 2) for name, taken in seconds.items()
        },
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
