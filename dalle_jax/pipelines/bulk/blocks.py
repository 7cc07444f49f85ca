"""Blocks of one shape, P rows x M candidates, into which prompts of any numbers of candidates are packed.

A row has up to M consecutive candidates of one prompt. A prompt of more candidates takes several rows, which may lie in
several blocks. Every block has the same shape, so it is compiled once.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from dalle_jax.pipelines.batching import power_of_two
from dalle_jax.pipelines.bulk.prompt_files import NumberedRequest
from dalle_jax.pipelines.request import Request


class BlockShape(NamedTuple):
    """The rows P of a block, and the candidates M of each row."""

    rows: int
    candidates: int


class BlockRow(NamedTuple):
    """Candidates ``first`` to ``first + size - 1`` of a prompt, counted from its first one."""

    number: int
    request: Request
    first: int
    size: int

    @property
    def starts(self) -> bool:
        """True for the first row of a prompt."""
        return self.first == 0

    @property
    def ends(self) -> bool:
        """True for the last row of a prompt."""
        return self.first + self.size == self.request.options.candidates


def block_shape(candidates: Mapping[int, int], batch: int, prefix: float, parts: int = 1) -> BlockShape:
    """Choose the shape of at most ``batch`` images that costs least for a job.

    ``candidates`` has the number of prompts by their number of candidates. A row costs its M images and ``prefix``, the
    length of a prompt over that of an image: each row holds and reads keys and values of its prompt. If ``parts``
    devices share a block, its rows are a multiple of them, or its candidates are.
    """
    sizes = [1 << power for power in range(batch.bit_length())]  # powers of two up to batch

    def rows(size: int) -> int:
        return sum(prompts * -(-count // size) for count, prompts in candidates.items())

    best = min(sizes, key=lambda size: rows(size) * (size + prefix))
    most = min(batch // best, power_of_two(rows(best)))
    return BlockShape(most // parts * parts if most > parts else most, best)


def block_rows(requests: Iterable[NumberedRequest], candidates: int) -> Iterator[BlockRow]:
    """Yield the rows of each prompt, in order."""
    for number, request in requests:
        every = request.options.candidates
        for first in range(0, every, candidates):
            yield BlockRow(number, request, first, min(candidates, every - first))


def blocks(requests: Iterable[NumberedRequest], shape: BlockShape) -> Iterator[list[BlockRow]]:
    """Yield blocks of ``shape.rows`` rows; the last block may have fewer."""
    block: list[BlockRow] = []
    for row in block_rows(requests, shape.candidates):
        block.append(row)
        if len(block) == shape.rows:
            yield block
            block = []
    if block:
        yield block
