"""The prompts of successive blocks: tokenized once, and run through the transformer once, for all of their rows."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Int
from dalle_jax.pipelines.batching import power_of_two
from dalle_jax.pipelines.bulk.blocks import BlockRow, BlockShape
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.sampling.autoregressive import NegativePrompts, Prefix, pick_prompts


class RowIds(NamedTuple):
    """The token ids of a prompt, of its negative prompt, and of the prompt as CLIP reads it."""

    text: np.ndarray
    negative: np.ndarray | None
    ranked: np.ndarray | None


class ReadBlock(NamedTuple):
    """The prefilled prompt of each row of a block, and its token ids for CLIP."""

    prefix: Prefix
    ranked: Int[np.ndarray, "P t"] | None


class BlockPrompts:
    """Reads the prompts of the blocks of one job, in order. The last prompt of a block may go on in the next one."""

    def __init__(self, pipeline: TextToImage, shape: BlockShape, *, guided: bool, negative: bool) -> None:
        """Read prompts for a pipeline; ``negative`` says that some prompts of the job have a negative prompt."""
        self._pipeline, self._shape = pipeline, shape
        self._guided, self._negative = guided, negative
        self._pick = pipeline.layout.jit(pick_prompts, static_argnames=("guided",))
        self._last: tuple[int, RowIds, Prefix] | None = None

    def forget(self) -> None:
        """Begin anew: the next block does not go on with a prompt."""
        self._last = None

    def read(self, block: list[BlockRow]) -> ReadBlock:
        """Read a block of as many rows as the shape has."""
        ids = self._ids({row.number: row for row in block})
        last = None if self._last is None else self._last[0]
        new = [number for number in ids if number != last]
        places = {number: 1 + place for place, number in enumerate(new)}
        prefix = self._prefix([ids[number] for number in new], [places.get(row.number, 0) for row in block])
        number = block[-1].number
        self._last = number, ids[number], prefix
        ranked = [one for row in block if (one := ids[row.number].ranked) is not None]
        return ReadBlock(prefix, np.stack(ranked) if ranked else None)

    def _ids(self, rows: dict[int, BlockRow]) -> dict[int, RowIds]:
        """Return the token ids of each prompt, by its number."""
        known = {} if self._last is None else {self._last[0]: self._last[1]}
        new = [row for number, row in rows.items() if number not in known]
        if new:
            prompts, read = [row.request.prompt for row in new], self._pipeline.prompts.read
            negatives = [None if (one := row.request.negative_prompt) is None else read([one])[0] for row in new]
            ranker = self._pipeline.ranker
            ranked = [None] * len(new) if ranker is None else ranker.text.encode_batch([str(one) for one in prompts])
            every = zip(new, read(prompts), negatives, ranked, strict=True)
            known |= {row.number: RowIds(*ids) for row, *ids in every}
        return {number: known[number] for number in rows}

    def _prefix(self, new: list[RowIds], places: list[int]) -> Prefix:
        """Prefill the new prompts, and return the prefix of each row.

        ``places`` has 0 in a row whose prompt goes on from the block before, and 1 + n in a row of new prompt n. The
        number of prompts that are computed is rounded up to a power of two, so that few programs compile.
        """
        rows, candidates = self._shape
        before = None if self._last is None else self._last[2]
        if not new:
            assert before is not None
            return before if rows == 1 else self._pick(before, before, np.array(places), guided=self._guided)
        padded = new + [new[-1]] * (min(power_of_two(len(new)), rows) - len(new))
        text = jnp.asarray(np.stack([one.text for one in padded]))
        prefix = self._pipeline.prefill_device(text, self._negatives(padded), candidates, self._guided)
        if len(new) == rows:
            return prefix
        return self._pick(prefix if before is None else before, prefix, np.array(places), guided=self._guided)

    def _negatives(self, ids: list[RowIds]) -> NegativePrompts | None:
        if not self._negative:
            return None
        rows = [one.text if one.negative is None else one.negative for one in ids]
        return NegativePrompts(jnp.asarray(np.stack(rows)), jnp.asarray([one.negative is not None for one in ids]))
