"""The order of images and the reading of requests, with an engine whose images finish at random."""

import random

import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.pipelines.bulk.prompt_files import NumberedRequest
from dalle_jax.pipelines.bulk.slot_queue import BATCHES_IN_FLIGHT, SlotQueue
from dalle_jax.pipelines.compiled_network import one_device
from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.pipelines.slot_engine import SlotEngine


class FakeSlots(SlotEngine):
    """An engine without devices, whose codes are (seed, candidate); an image may take a hundred times as long."""

    slots, contexts, length = 5, 3, 2

    def __init__(self) -> None:
        self.random, self.inside, self.held, self.next = random.Random(0), {}, set(), 0

    @property
    def busy(self) -> int:
        return len(self.inside)

    @property
    def free_contexts(self) -> int:
        return self.contexts - len(self.held)

    def clear(self) -> None:
        self.inside.clear()

    def hold(self, rows, negative) -> list[int]:
        numbers = list(range(self.next, self.next + len(rows)))
        self.next += len(rows)
        self.held.update(numbers)
        assert len(self.held) <= self.contexts
        return numbers

    def release(self, context: int) -> None:
        self.held.remove(context)

    def insert(self, images) -> list[int]:
        free = [slot for slot in range(self.slots) if slot not in self.inside][: len(images)]
        for slot, image in zip(free, images, strict=False):
            assert image.context in self.held
            left = 1000 if self.random.random() < 0.05 else self.random.randint(1, 9)
            self.inside[slot] = [left, (image.seed, image.candidate)]
        return free

    def advance(self) -> list[int]:
        for one in self.inside.values():
            one[0] -= 1
        return [slot for slot, (left, _) in self.inside.items() if left <= 0]

    def collect(self, slots) -> np.ndarray:
        codes = np.zeros((self.slots, 2), np.int32)
        codes[: len(slots)] = [self.inside.pop(slot)[1] for slot in slots]
        return jnp.asarray(codes)


class Words:
    """Implements ``PromptReader``."""

    length = 1

    def read(self, prompts) -> np.ndarray:
        return np.zeros((len(prompts), 1), np.int32)

    def lengths(self, prompts) -> list[int]:
        return [1] * len(prompts)

    def unreadable(self, prompts) -> list[int]:
        return []


@pytest.mark.parametrize("count", [0, 3, 60])
def test_codes_come_in_the_order_of_the_requests_in_full_batches_whenever_their_images_finish(count):
    chosen, read = random.Random(1), []
    sizes = [chosen.choice([1, 2, 7, 30]) for _ in range(count)]
    requests = [
        NumberedRequest(n, Request("a", RequestOptions(candidates=size, seed=n, keep=1)))
        for n, size in enumerate(sizes)
    ]
    queue = SlotQueue(FakeSlots(), Words(), None, one_device(), 4)
    found, flying = [], 0
    for batch in queue.batches(read.append(one.number) or one for one in requests):
        found.append(len(batch.images))
        drawn = [(image.number, image.candidate) for image in batch.images]
        np.testing.assert_array_equal(np.asarray(batch.codes)[: len(drawn)], drawn)
        flying = max(flying, len(queue._flying))
        expected = [(n, m) for n, size in enumerate(sizes) for m in range(size)]
        start = sum(found[:-1])
        assert drawn == expected[start : start + 4] and batch.images[-1].ends == (
            drawn[-1][1] == sizes[drawn[-1][0]] - 1
        )
        assert sum(sizes[: max(0, len(read) - 4)]) <= start + 4 + BATCHES_IN_FLIGHT * 5  # prompts that are read ahead
    assert sum(found) == sum(sizes) and set(found[:-1]) <= {4} and len(read) == count
    assert flying <= BATCHES_IN_FLIGHT * 5
