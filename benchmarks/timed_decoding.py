"""Cached generation by one transformer with random weights on this machine's device, as lines of JSON.

    python benchmarks/timed_decoding.py configs/runs/dalle1_1b.gin --seconds 200

``accelerator_sampling.py`` calls it for both of its models. The weights have the dtypes that ``sample`` loads, and are
drawn on the device. Each case compiles one program, calls it once, and then takes the median of further calls:

    prefill      the prompts alone
    sequential   ``autoregressive.sample``, one code per step
    window W     ``slots.sample_in_slots``, W codes per pass; on a TPU with the decode kernel and with XLA's attention

A step's time is that of the call without the prefill, divided by the steps. All codes of a window are given, so that a
pass accepts W of them: random weights say nothing about acceptance. The throughput of a window assumes the codes per
pass of a trained model, from ``--windows W:CODES``. The bytes of a step are those of ``plan --sample``: the weights of
the layers and the head, and the visible part of the cache. Their limit is the bandwidth of a copy, measured first.
"""

import argparse
import functools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
from accelerator_step import by_kind, kernel_times
from flax import nnx

from dalle_jax.arrays import Array, PyTree
from dalle_jax.config.bind import load
from dalle_jax.config.errors import UserError
from dalle_jax.models.code_generator import CodeGenerator, Reduced, reduce_precision
from dalle_jax.parallel.chips import chip_of
from dalle_jax.parallel.layout import Layout, platform
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.plan.planned_sampler import PlannedSampler, SampledBatch
from dalle_jax.runs import TrainRun
from dalle_jax.sampling.autoregressive import GivenCodes, Settings, image_keys, sample
from dalle_jax.sampling.slots import sample_in_slots

BATCHES = ("1x1", "8x1", "64x1", "512x1", "1x512")
CALLS, ENOUGH = 5, 6.0
"""The most calls of a case after the first, and the seconds after which no further one is made."""

Row = dict[str, str | int | float | dict | None]
"""A line of JSON."""


@dataclass(frozen=True)
class Window:
    """A number of codes per pass, and the mean number that a trained model accepts of them."""

    size: int
    accepted: float

    @classmethod
    def parse(cls, text: str) -> "Window":
        """Parse ``W:CODES``."""
        size, _, accepted = text.partition(":")
        return cls(int(size), float(accepted))


SEQUENTIAL = Window(1, 1.0)


def parse_batch(text: str) -> SampledBatch:
    """Parse ``PROMPTSxCANDIDATES``."""
    prompts, _, candidates = text.partition("x")
    return SampledBatch(int(prompts), int(candidates))


@dataclass(frozen=True)
class Timed:
    """The seconds of a compiled call, of its compilation, and its passes of the transformer over codes.

    ``profile`` is the device time of a pass by kind of work, with a share of the prefill, or None.
    """

    compile_seconds: float
    seconds: float
    passes: int
    profile: dict | None = None


def median_seconds(run: Callable[[], PyTree]) -> float:
    """Call a compiled program once, then up to ``CALLS`` times, and return the median of the later calls."""
    jax.block_until_ready(run())
    taken: list[float] = []
    while len(taken) < CALLS and sum(taken) < ENOUGH:
        began = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def copy_bandwidth(size: int) -> float:
    """Return the bytes per second, read and written, at which ``size`` bytes of random integers are inverted."""
    values = jax.jit(lambda key: jax.random.bits(key, (size // 4,), jnp.uint32))(jax.random.key(0))
    invert = jax.jit(lambda x: ~x).lower(values).compile()

    def ten_times() -> Array:
        out = values
        for _ in range(10):
            out = invert(out)
        return out

    return 20 * size / median_seconds(ten_times)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _normal(key: Array, shape: tuple[int, ...], dtype: str) -> Array:
    return (0.02 * jax.random.normal(key, shape)).astype(dtype)


@dataclass(frozen=True)
class Decoder:
    """A transformer on one device, and the plan that counts its bytes. Weights are normal with deviation 0.02."""

    planned: PlannedSampler
    graph: nnx.GraphDef[CodeGenerator]
    state: PyTree

    @classmethod
    def load(cls, config: str, fields: Sequence[str]) -> "Decoder":
        """Build the transformer of a training config, with ``fields`` set."""
        run: TrainRun = load(config, TrainRun, fields)
        layout = Layout(make_mesh(Mesh(), jax.devices()[:1]), run.rules)
        planned = PlannedSampler(run.task.open_for_plan(), layout)
        graph, state = nnx.split(planned.generator)
        leaves, tree = jax.tree.flatten(state)
        keys = jax.random.split(jax.random.key(0, impl="rbg"), len(leaves))  # compiles fast
        leaves = [_normal(key, one.shape, one.dtype.name) for key, one in zip(keys, leaves, strict=True)]
        return cls(planned, graph, jax.tree.unflatten(tree, leaves))

    def with_attention(self, attention: Literal["xla", "pallas"]) -> "Decoder":
        """Return a decoder of the same weights with another attention in slots."""
        generator = nnx.merge(self.graph, self.state)
        reduce_precision(generator, Reduced(attention=attention))
        return replace(self, graph=nnx.split(generator)[0])

    @property
    def length(self) -> int:
        """The number of codes of an image, I."""
        return math.prod(self.planned.generator.grid)

    def compile(self, function: Callable[..., PyTree], *arguments: PyTree) -> tuple[Callable[[], PyTree], float]:
        """Compile ``function(generator, *arguments)``; return a call of it, and the seconds that it took to compile."""
        began = time.perf_counter()
        program = self.planned.layout.jit(lambda state, *rest: function(nnx.merge(self.graph, state), *rest))
        compiled = program.lower(self.state, *arguments).compile()
        return lambda: compiled(self.state, *arguments), time.perf_counter() - began

    def prompts(self, count: int) -> Array:
        """Draw prompts: token ids and classes from 1 to 4, or normal features."""
        spec = self.planned.generator.prompt_spec(count)
        if jnp.issubdtype(spec.dtype, jnp.integer):
            return jax.random.randint(jax.random.key(1), spec.shape, 1, 5, spec.dtype)
        return jax.random.normal(jax.random.key(1), spec.shape, spec.dtype)

    def given(self, batch: SampledBatch) -> GivenCodes:
        """Draw codes that are all given."""
        shape, most = (batch.prompts, batch.candidates, self.length), self.planned.generator.codebook_size
        codes = jax.random.randint(jax.random.key(2), shape, 0, most, jnp.int32)
        return GivenCodes(codes, jnp.ones((batch.prompts, self.length), bool))


def time_prefill(decoder: Decoder, batch: SampledBatch) -> Timed:
    """Time the prefill of the prompts."""
    text = decoder.prompts(batch.prompts)
    run, compiling = decoder.compile(lambda generator, text: generator.prefill(text, batch.candidates), text)
    return Timed(compiling, median_seconds(run), passes=0)


def time_sampling(decoder: Decoder, batch: SampledBatch, window: Window, *, profile: bool) -> Timed:
    """Time ``sample``, or ``sample_in_slots`` with a slot for each image if the window has more than one code."""
    keys, settings = image_keys(jnp.arange(batch.prompts), batch.candidates), Settings.of(batch.prompts)
    arguments: tuple[PyTree, ...] = (decoder.prompts(batch.prompts), keys, settings)
    if window == SEQUENTIAL:
        run, compiling = decoder.compile(functools.partial(sample, guided=False), *arguments)
        seconds, passes = median_seconds(run), decoder.length - 1
    else:
        in_slots = functools.partial(sample_in_slots, guided=False, window=window.size)
        run, compiling = decoder.compile(in_slots, *arguments, decoder.given(batch))
        seconds, passes = median_seconds(run), int(run().passes)
    return Timed(compiling, seconds, passes, by_kind(kernel_times(run), passes) if profile else None)


def rates(decoder: Decoder, batch: SampledBatch, window: Window, timed: Timed, prefill: Timed, bandwidth: float) -> Row:
    """Return the time of a pass, its bytes, its share of the limits and the codes per second.

    A share is None where the chip is not listed, or where the noise of the clock exceeds the time of the passes.
    """
    planned = decoder.planned
    read = planned.step_bytes(batch) if window == SEQUENTIAL else planned.window_bytes(batch, window.size)
    cache = read.cache / 2  # a plan counts guidance, which these calls do not have
    seconds, chip = (timed.seconds - prefill.seconds) / timed.passes, chip_of(jax.devices()[0].device_kind)
    whole = prefill.seconds + (decoder.length - 1) / window.accepted * seconds
    flops = 2 * weights_read(decoder) * batch.images * window.size
    return {
        "pass_seconds": seconds,
        "weight_bytes": read.weights,
        "cache_bytes": cache,
        "bandwidth_share": (read.weights + cache) / bandwidth / seconds if seconds > 0 else None,
        "flops_share": flops / chip.device_flops / seconds if chip is not None and seconds > 0 else None,
        "accepted": window.accepted,
        "codes_per_second": batch.images * decoder.length / whole if seconds > 0 else None,
    }


def weights_read(decoder: Decoder) -> int:
    """Return the number of weights of the layers and the head."""
    layers = decoder.planned.generator
    return sum(one.size for part in (layers.stack, layers.codes.head) for one in jax.tree.leaves(nnx.state(part)))


def measure(
    decoder: Decoder,
    batches: Sequence[SampledBatch],
    windows: Sequence[Window],
    bandwidth: float,
    end: float,
    profiled: Sequence[SampledBatch] = (),
    attentions: Sequence[Literal["xla", "pallas"]] = ("xla",),
) -> Iterator[Row]:
    """Yield a row for each case: at each batch sequential and the first window, then the other windows.

    A window is measured with each of ``attentions``.

    A case is left out if the longest case so far would not end before ``end`` (of ``time.monotonic``). The batches in
    ``profiled`` are also traced.
    """
    decoders = {attention: decoder.with_attention(attention) for attention in attentions}
    order = [(batch, window) for batch in batches for window in (SEQUENTIAL, *windows[:1])]
    order += [(batch, window) for window in windows[1:] for batch in batches]
    cases = [(*case, kind) for case in order for kind in (attentions[:1] if case[1] == SEQUENTIAL else attentions)]
    prefills: dict[SampledBatch, Timed] = {}
    longest = 0.0
    for batch, window, attention in cases:
        name = "sequential" if window == SEQUENTIAL else f"window {window.size}"
        name += ", kernel" if window != SEQUENTIAL and attention == "pallas" else ""
        row: Row = {"case": name, "prompts": batch.prompts, "candidates": batch.candidates}
        began = time.monotonic()
        if began + longest >= end:
            yield row | {"status": "left out"}
            continue
        try:
            if batch not in prefills:
                prefills[batch] = time_prefill(decoder, batch)
                yield row | {"case": "prefill", "status": "measured"} | asdict(prefills[batch])
            timed = time_sampling(decoders[attention], batch, window, profile=batch in profiled)
            found = rates(decoder, batch, window, timed, prefills[batch], bandwidth)
            yield row | {"status": "measured"} | asdict(timed) | found
        except (jax.errors.JaxRuntimeError, UserError) as error:  # such as a batch that does not fit
            yield row | {"status": "failed", "error": str(error).splitlines()[0]}
        longest = max(longest, time.monotonic() - began)


def main() -> None:
    """Print the copy bandwidth, the model and each case, as they are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a training config of a transformer")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="fields to set in the config")
    parser.add_argument("--seconds", type=float, required=True, help="within which the last case ends")
    shapes = {"nargs": "*", "type": parse_batch, "metavar": "PROMPTSxCANDIDATES"}
    parser.add_argument("--batches", **shapes, default=[parse_batch(text) for text in BATCHES])
    parser.add_argument("--profile", **shapes, default=[], help="batches to trace too, for the time by kind of work")
    parser.add_argument("--windows", nargs="+", type=Window.parse, required=True, metavar="W:CODES")
    parser.add_argument("--copy", type=int, default=4 * 2**30, help="bytes of the copy (default 4 GiB)")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    bandwidth = copy_bandwidth(args.copy)
    device = jax.devices()[0].device_kind
    print(json.dumps({"case": "copy", "status": "measured", "device": device, "bandwidth": bandwidth}), flush=True)
    decoder = Decoder.load(args.config, args.set)
    about = {"jax": jax.__version__, "weights": weights_read(decoder), "codes": decoder.length}
    print(json.dumps({"case": "model", "status": "measured"} | about), flush=True)
    attentions: tuple[Literal["xla", "pallas"], ...] = ("pallas", "xla") if platform() == "tpu" else ("xla",)
    for row in measure(decoder, args.batches, args.windows, bandwidth, end, args.profile, attentions):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
