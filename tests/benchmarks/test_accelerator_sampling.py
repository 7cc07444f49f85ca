"""The script for an accelerator, at tiny sizes on a CPU: its rows, the bytes that it counts, and its stop in time."""

import json
import math
from collections import Counter
from pathlib import Path

import accelerator_sampling
import jax
import pytest
import timed_attention
from accelerator_sampling import Part, relay, run, table
from accelerator_step import by_kind
from flax import nnx
from timed_decoding import Decoder, Window, measure, time_sampling

from dalle_jax.config.errors import UserError
from dalle_jax.plan.planned_sampler import SampledBatch

ROOT = Path(__file__).resolve().parents[2]
BATCH, WINDOW = SampledBatch(1, 2), Window(4, 2.0)


@pytest.fixture(scope="module")
def decoder():
    return Decoder.load(str(ROOT / "configs/runs/dalle1_1b.gin"), accelerator_sampling.TINY_DALLE)


@pytest.fixture(scope="module")
def rows(decoder):
    return {row["case"]: row for row in measure(decoder, [BATCH], [WINDOW], bandwidth=1e9, end=math.inf)}


def bytes_of(tree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def test_every_case_is_measured_and_a_window_takes_a_fourth_of_the_passes(rows):
    assert {case: (row["status"], row["passes"]) for case, row in rows.items()} == {
        "prefill": ("measured", 0), "sequential": ("measured", 15), "window 4": ("measured", 4)
    }  # fmt: skip
    for row in rows.values():
        assert row["compile_seconds"] > 0 and row["seconds"] > 0
    assert rows["window 4"]["accepted"] == 2.0


def test_the_counted_bytes_are_those_of_the_arrays(decoder, rows):
    model = nnx.merge(decoder.graph, decoder.state)
    weights = bytes_of([nnx.state(model.stack), nnx.state(model.codes.head)])
    assert model.stack.blocks[0].attention.qkv.kernel[...].dtype == "bfloat16"

    @jax.jit
    def caches(state):
        model = nnx.merge(decoder.graph, state)
        sequential = model.grow(model.prefill(decoder.prompts(1), 2)[1], 15)
        return sequential, model.slots(model.prefill(decoder.prompts(1), 1)[1], 4, rows=2)

    sequential, slots = caches(decoder.state)
    row, column = sequential.rest
    context = bytes_of([(layer.context_k, layer.context_v) for layer in (row, column)])
    read = context + bytes_of([row.k, row.v]) + bytes_of([column.k, column.v]) / 4  # one of 4 columns
    assert (rows["sequential"]["weight_bytes"], rows["sequential"]["cache_bytes"]) == (weights, read)
    assert (rows["window 4"]["weight_bytes"], rows["window 4"]["cache_bytes"]) == (weights, bytes_of(slots))


def test_rates_follow_from_the_time_of_a_pass(rows):
    prefill, row = rows["prefill"]["seconds"], rows["window 4"]
    seconds = (row["seconds"] - prefill) / 4
    assert row["pass_seconds"] == pytest.approx(seconds)
    if seconds > 0:
        assert row["codes_per_second"] == pytest.approx(2 * 16 / (prefill + 15 / 2 * seconds))
        assert row["bandwidth_share"] == pytest.approx((row["weight_bytes"] + row["cache_bytes"]) / 1e9 / seconds)
    else:
        assert row["codes_per_second"] is None and row["bandwidth_share"] is None


def test_cases_without_time_are_left_out(decoder):
    found = list(measure(decoder, [BATCH], [WINDOW, Window(2, 1.5)], bandwidth=1e9, end=0.0))
    assert [(row["case"], row["status"]) for row in found] == [
        (case, "left out") for case in ("sequential", "window 4", "window 2")
    ]


def test_windows_are_measured_with_the_kernel_and_without_it(decoder):
    found = list(measure(decoder, [BATCH], [WINDOW], 1e9, 0.0, attentions=("pallas", "xla")))
    assert [row["case"] for row in found] == ["sequential", "window 4, kernel", "window 4"]
    with pytest.raises(UserError, match="attention = 'pallas': expected to run on a tpu, got a cpu"):
        time_sampling(decoder.with_attention("pallas"), BATCH, WINDOW, profile=False)


def test_the_attention_of_a_kind_is_timed_with_the_share_of_its_pairs():
    row = timed_attention.time_attention("row", "auto", timed_attention.TINY)
    length = 3 + 15
    visible = sum(1 for i in range(length) for j in range(i + 1) if j < 3 or i - j <= 4)
    assert row["visible"] == pytest.approx(visible / length**2)
    assert row["forward_seconds"] > 0 and row["step_seconds"] > 0


def test_kernels_are_summed_by_kind_of_work():
    found = by_kind(Counter({"nvjet_gemm": 4_000_000, "loop_add_fusion": 1_000_000, "gemm_fusion_dot": 2_000_000}), 2)
    assert found["milliseconds_of_a_step"] == {
        "matrix products": 3.0, "elementwise work (optimizer, GELU, residuals)": 0.5
    }  # fmt: skip
    assert found["kernels"][0] == ["nvjet_gemm", 2.0]


def test_a_part_that_does_not_end_is_killed_with_its_processes_and_its_rows_are_kept(tmp_path):
    found: list = []
    with (tmp_path / "log").open("w") as errors:
        script = """echo '{"case": "a"}'; echo no row; sleep 600 & wait"""  # sleep holds the pipe until it is killed
        assert relay(["sh", "-c", script], 2.0, errors, found.append) == "stopped"
        assert relay(["sh", "-c", "exit 3"], 60.0, errors, found.append) == "failed"
        assert relay(["sh", "-c", "exit 0"], 60.0, errors, found.append) == "ended"
    assert found == [{"case": "a"}]


def test_parts_without_time_are_rows_of_the_file_and_of_the_table(tmp_path):
    found = run([Part("attention", 1.0, lambda _: ["timed_attention.py"])], 0.0, tmp_path)
    (line,) = (tmp_path / accelerator_sampling.FILE).read_text().splitlines()
    assert found == [json.loads(line)] == [{"part": "attention", "status": "left out", "case": "all"}]
    assert "| attention | all | - | - | - | - | - | - | left out |" in table(found)


def test_a_row_of_the_table_has_milliseconds_and_percentages():
    row = {
        "part": "dalle1_1b", "case": "sequential", "prompts": 8, "candidates": 1, "pass_seconds": 0.002, "seconds": 9.0,
        "codes_per_second": 4000.0, "bandwidth_share": 0.5, "flops_share": 0.01, "accepted": 1.0,
        "compile_seconds": 12.0, "status": "measured",
    }  # fmt: skip
    assert "| dalle1_1b | sequential, 8x1 | 2 | 4,000 | 50 | 1 | 1 | 12 | measured |" in table([row])
