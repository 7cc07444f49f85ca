"""The attention of a training step by kind and backend on this machine's device, as lines of JSON.

    python benchmarks/timed_attention.py --seconds 40

``accelerator_sampling.py`` calls it. The sizes are those of one layer of ``configs/runs/dalle1_1b.gin``: 32 rows of
1280 tokens, 32 heads of 64. ``forward`` is the attention alone. ``step`` is its value and its gradients. On a GPU,
cuDNN computes row, column and convolutional attention in blocks, and full attention by the causal kernel; XLA computes
all pairs. ``visible`` is the share of all pairs that the mask allows, ``blocks`` the share that the blocks compute.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from timed_decoding import Row, median_seconds

from dalle_jax.arrays import Array
from dalle_jax.layers.attend import Backend, stream_attention
from dalle_jax.layers.attend_backends.attend_cudnn import image_blocks
from dalle_jax.layers.attention_masks import Kind, Pattern

KINDS: tuple[Kind, ...] = ("full", "row", "column", "convolutional")


@dataclass(frozen=True)
class Sizes:
    """The sizes of one layer; the stream has ``context`` tokens and all codes but the last."""

    rows: int = 32
    heads: int = 32
    head_size: int = 64
    context: int = 257
    side: int = 32
    kernel: int = 11

    def pattern(self, kind: Kind) -> Pattern:
        """Return the pattern of a kind of attention."""
        return Pattern(kind, self.context, (self.side, self.side), self.kernel)


TINY = Sizes(rows=1, heads=1, head_size=8, context=3, side=4, kernel=3)


def time_attention(kind: Kind, backend: Backend, sizes: Sizes) -> Row:
    """Compile and time the forward pass, and the forward pass with its gradients."""
    pattern = sizes.pattern(kind)
    length = pattern.context + pattern.positions - 1
    shape = (sizes.rows, sizes.heads, length, sizes.head_size)
    *operands, weight = (jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16) for seed in range(4))

    def attend(q: Array, k: Array, v: Array) -> Array:
        return stream_attention(q, k, v, pattern, backend)

    def weighted(q: Array, k: Array, v: Array) -> Array:
        return (attend(q, k, v) * weight).astype(jnp.float32).sum()

    began = time.perf_counter()
    forward = jax.jit(attend).lower(*operands).compile()
    step = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1, 2))).lower(*operands).compile()
    return {
        "compile_seconds": time.perf_counter() - began,
        "forward_seconds": median_seconds(lambda: forward(*operands)),
        "step_seconds": median_seconds(lambda: step(*operands)),
        "visible": float(pattern.mask(length).mean()),
        "blocks": None if kind == "full" else image_blocks(pattern).seen.size / length**2,
    }


def measure(sizes: Sizes, backends: tuple[Backend, ...], end: float) -> Iterator[Row]:
    """Yield a row for each backend and kind; cases that would not end before ``end`` are left out."""
    longest = 0.0
    for backend in backends:
        for kind in KINDS:
            row: Row = {"case": f"{kind} {backend}"}
            began = time.monotonic()
            if began + longest >= end:
                yield row | {"status": "left out"}
                continue
            try:
                yield row | {"status": "measured"} | time_attention(kind, backend, sizes)
            except jax.errors.JaxRuntimeError as error:
                yield row | {"status": "failed", "error": str(error).splitlines()[0]}
            longest = max(longest, time.monotonic() - began)


def main() -> None:
    """Print a line for each case, as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, required=True, help="within which the last case ends")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, for a test on a CPU")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    backends: tuple[Backend, ...] = ("cudnn", "xla") if jax.default_backend() in ("gpu", "cuda") else ("auto",)
    for row in measure(TINY if args.tiny else Sizes(), backends, end):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
