"""Held-out examples that do not fill the last batch: each counts once in the metrics."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest

from dalle_jax.data.loader import Loader
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.train import metrics, prefetch
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.trainer import Trainer
from tests.parallel.test_sharded_tasks import MESHES, ONE, batch_of, task_of

COUNT = 13
EXAMPLES = {name: rows[:COUNT] for name, rows in batch_of().items()}


class Numbered:
    """A source whose example i is an image with the one value i."""

    def __init__(self, count: int = COUNT):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"key": str(index), "image": np.full((1, 1, 3), index, np.uint8), "captions": [str(index)]}

    def fingerprint(self) -> str:
        return f"numbered {self.count}"


class Ready:
    """A task whose batches are rows of EXAMPLES; the value of an image is the row's number."""

    def __init__(self, kind: str):
        self._task = task_of(kind)
        for name in dir(self._task):  # attributes, since the protocol is checked without __getattr__
            if not name.startswith("_") and name != "prepare":
                setattr(self, name, getattr(self._task, name))

    def prepare(self, examples: dict[str, list[Any]], seeds: Sequence[Any] | None) -> dict[str, np.ndarray]:
        rows = [int(image[0, 0, 0]) for image in examples["image"]]
        return {name: EXAMPLES[name][rows] for name in self._task.batch_spec(1)}


@functools.cache
def compiled_task_of(kind: str, mesh: Mesh) -> tuple[CompiledTask, Layout, Any]:
    layout = Layout(make_mesh(mesh), Rules())
    compiled = CompiledTask(Ready(kind), Trainer(steps=1, schedule=ConstantRate(1e-3)), layout)
    return compiled, layout, compiled.state_spec.init_sharded(layout, 0)


def evaluated(kind: str, size: int, mesh: Mesh = ONE, count: int = COUNT) -> dict[str, float]:
    """Return the metrics of the first ``count`` examples in batches of ``size``."""
    compiled, layout, state = compiled_task_of(kind, mesh)
    data, sums = Loader(Numbered(), Numbered(count), size, seed=0), None
    for index, batch in enumerate(prefetch.evaluation(Ready(kind), data, layout)):
        sums = compiled.merge(sums, compiled.evaluate(state, batch, index))
    return metrics.divide(sums)


@pytest.mark.parametrize(
    ("size", "mesh", "kind"),
    [
        *((8, "one", kind) for kind in ("tokenizer", "dalle", "llamagen")),
        (8, "8x1x1", "tokenizer"),
        (16, "2x2x2", "dalle"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                (16, "2x2x2", "tokenizer"), (8, "8x1x1", "dalle"), (8, "8x1x1", "llamagen"), (16, "2x2x2", "llamagen")
            ]
        ),
    ],
)  # fmt: skip
def test_metrics_of_thirteen_examples_are_the_same_for_every_batch_size(kind, size, mesh):
    whole = evaluated(kind, COUNT)
    filled_up = evaluated(kind, size, MESHES.get(mesh, ONE))
    assert whole.keys() == filled_up.keys() and whole
    for name, value in whole.items():
        np.testing.assert_allclose(filled_up[name], value, rtol=2e-5, err_msg=name)


@pytest.mark.parametrize("mesh", ["one", "8x1x1"])
def test_retrieval_among_thirteen_is_the_same_in_a_batch_padded_to_sixteen(mesh):
    whole, filled_up = evaluated("clip", COUNT), evaluated("clip", 16, MESHES.get(mesh, ONE))
    assert filled_up["retrieval_top1"] == whole["retrieval_top1"]
    np.testing.assert_allclose(filled_up["loss"], whole["loss"], rtol=1e-5)


def test_retrieval_in_the_last_batch_has_as_many_candidates_as_in_the_others():
    """With 13 examples in batches of 8, the last 5 are retrieved among themselves and the first 3."""
    compiled, layout, state = compiled_task_of("clip", ONE)
    right, loss = [], []
    for rows, own in ((range(8), 8), ([*range(8, 13), 0, 1, 2], 5)):
        batch = {name: EXAMPLES[name][list(rows)] for name in ("pixels", "text", "caption_group")}
        for row in range(own):  # each example alone is counted, so that nothing of the summing is taken for granted
            marks = {"counted": np.arange(8) == row, "candidate": np.ones(8, bool)}
            sums = compiled.evaluate(state, layout.put_batch(batch | marks), 0)
            right.append(float(sums["retrieval_top1"][0]))
            loss.append(float(sums["loss"][0]))
        plain = metrics.divide(compiled.evaluate(state, layout.put_batch(batch), 0))
        if own == 8:
            np.testing.assert_allclose(np.mean(loss), plain["loss"], rtol=1e-5)
            assert np.mean(right) == plain["retrieval_top1"]
    figures = evaluated("clip", 8)
    assert figures["retrieval_top1"] == pytest.approx(np.mean(right))
    assert figures["loss"] == pytest.approx(np.mean(loss), rel=1e-5)


def test_full_batches_are_evaluated_without_padding():
    compiled, layout, state = compiled_task_of("tokenizer", ONE)
    (batch,) = prefetch.evaluation(Ready("tokenizer"), Loader(Numbered(), Numbered(8), 8, seed=0), layout)
    assert set(batch) == {"pixels"}
    figures = metrics.divide(compiled.evaluate(state, batch, 0))
    assert figures == evaluated("tokenizer", 8, count=8)
    assert jax.tree.leaves(figures)
