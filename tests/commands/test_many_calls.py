"""Two hundred calls of a pipeline with varying prompts and candidates: memory stays, and only buckets are compiled."""

import gc
import itertools

import jax
import numpy as np
import pytest

import dalle_jax
from tests.conftest import resident_bytes

CALLS, SETTLED = 200, 100
MOST_PROMPTS, MOST_CANDIDATES = 4, 8
COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.mark.slow
def test_two_hundred_calls_keep_their_memory_and_compile_only_new_buckets(smoke_demo):
    compiled: list[str] = []

    def listen(event: str, seconds: float, **more: object) -> None:
        compiled.append(event)

    pipeline = dalle_jax.load(str(smoke_demo))
    random = np.random.default_rng(0)
    jax.monitoring.register_event_duration_secs_listener(listen)
    after, sizes = [], []
    every = list(itertools.product(range(1, MOST_PROMPTS + 1), range(1, MOST_CANDIDATES + 1)))
    for call in range(CALLS):
        count, candidates = every[call if call < len(every) else random.integers(len(every))]
        prompts = [f"a red circle {number}" for number in range(count)]
        pipeline(prompts, candidates=candidates, keep=1, seed=call, guidance=float(random.uniform(1.5, 4)))
        after.append(compiled.count(COMPILED))
        gc.collect()
        sizes.append(resident_bytes())
    jax.monitoring.unregister_event_duration_listener(listen)
    buckets = 3 * 4  # 1, 2 and 4 prompts; 1, 2, 4 and 8 candidates
    print(f"{after[-1]} compilations, {after[len(every) - 1]} by the last new size")
    print(f"{sizes[SETTLED]:,} bytes after {SETTLED} calls, {sizes[-1]:,} after {CALLS}")
    assert after[-1] == after[len(every) - 1] > 0
    assert pipeline._sample.compiles() <= buckets
    assert sizes[-1] <= 1.03 * sizes[SETTLED]
