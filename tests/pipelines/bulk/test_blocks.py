import random

import pytest

from dalle_jax.pipelines.bulk.blocks import BlockShape, block_shape, blocks
from dalle_jax.pipelines.bulk.pipeline_engine import alike
from dalle_jax.pipelines.bulk.prompt_files import NumberedRequest
from dalle_jax.pipelines.request import Request, RequestOptions


def requests(counts, **options) -> list[NumberedRequest]:
    return [
        NumberedRequest(number, Request(str(number), RequestOptions(candidates=count, keep=1, **options)))
        for number, count in enumerate(counts)
    ]


@pytest.mark.parametrize(
    ("candidates", "batch", "shape"),
    [
        ({16: 2000}, 64, BlockShape(4, 16)),  # prompts fill the batch
        ({512: 10}, 64, BlockShape(1, 64)),  # a prompt takes eight blocks
        ({1: 1000}, 64, BlockShape(64, 1)),
        ({12: 500}, 64, BlockShape(16, 4)),  # three whole rows rather than one of 16
        ({16: 1}, 64, BlockShape(1, 16)),  # no rows that nothing fills
        ({100: 5}, 48, BlockShape(12, 4)),
    ],
)
def test_the_shape_wastes_no_candidates_and_has_few_rows_of_text(candidates, batch, shape):
    assert block_shape(candidates, batch, prefix=0.25) == shape


def test_a_long_text_makes_rows_longer():
    assert block_shape({12: 500}, 64, prefix=0.1).candidates == 4
    assert block_shape({12: 500}, 64, prefix=8.0).candidates == 16


def test_every_candidate_is_in_one_row_in_order_and_only_the_last_block_is_short():
    counts = [random.Random(0).randint(1, 40) for _ in range(50)]
    found = list(blocks(requests(counts), BlockShape(3, 8)))
    assert all(len(block) == 3 for block in found[:-1]) and 1 <= len(found[-1]) <= 3
    rows = [row for block in found for row in block]
    drawn = [(row.number, row.first + place) for row in rows for place in range(row.size)]
    assert drawn == [(number, place) for number, count in enumerate(counts) for place in range(count)]
    assert max(row.size for row in rows) == 8
    assert [row.number for row in rows if row.starts] == [row.number for row in rows if row.ends] == list(range(50))


def test_requests_are_read_as_blocks_need_them():
    read = []
    stream = (read.append(one.number) or one for one in requests([8] * 100))
    next(blocks(stream, BlockShape(2, 8)))
    assert read == [0, 1]


def test_calls_of_any_pipeline_have_requests_of_equal_candidates_and_at_most_a_batch():
    given = requests([4, 4, 4, 2, 2, 30, 4])
    assert [[one.number for one in group] for group in alike(given, 8)] == [[0, 1], [2], [3, 4], [5], [6]]
