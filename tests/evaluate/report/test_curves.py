import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalle_jax.evaluate.report.curves import read_metrics, read_metrics_file, thinned, training_charts


def test_lines_become_series_sorted_by_step():
    text = '{"step": 20, "train/loss": 1.0}\n{"step": 10, "train/loss": 2, "evaluation/loss": 3.0}\n'
    assert read_metrics(text) == {"train/loss": ((10, 2.0), (20, 1.0)), "evaluation/loss": ((10, 3.0),)}


def test_incomplete_lines_and_values_that_are_not_numbers_are_skipped():
    text = (
        '{"step": 1, "a": NaN, "b": null, "c": "x", "d": true, "e": 1e999, "f": 4}\nno\n[1]\n{"a": 1}\n{"step": 2, "f":'
    )
    assert read_metrics(text) == {"f": ((1, 4.0),)}


def test_the_later_line_of_a_step_wins_after_a_resume():
    assert read_metrics('{"step": 5, "a": 1}\n{"step": 6, "a": 2}\n{"step": 5, "a": 3}') == {"a": ((5, 3.0), (6, 2.0))}


@given(st.text())
def test_no_text_is_an_error(text):
    assert isinstance(read_metrics(text), dict)


@given(st.lists(st.dictionaries(st.sampled_from(["step", "a"]), st.integers() | st.floats() | st.none() | st.text())))
def test_no_record_is_an_error(records):
    charts = training_charts(read_metrics("\n".join(json.dumps(record) for record in records)))
    assert all(len(line.points) > 1 for chart in charts for line in chart.lines)


def test_a_missing_file_has_no_series(tmp_path):
    assert read_metrics_file(tmp_path / "metrics.jsonl") == {}


def test_thinning_keeps_the_mean_of_equal_groups():
    series = tuple((float(i), float(i * i)) for i in range(1200))
    thin = thinned(series, limit=300)
    assert len(thin) == 300
    assert sum(y for _, y in thin) / 300 == pytest.approx(sum(y for _, y in series) / 1200)
    assert thinned(series[:5], limit=5) == series[:5]


def test_training_and_evaluation_of_a_metric_share_a_chart():
    metrics = {
        "evaluation/loss": ((10.0, 0.9), (20.0, 0.01)),
        "train/loss": ((1.0, 2.0), (2.0, 1.0)),
        "train/steps_per_second": ((1.0, 2.0), (2.0, 1.0)),
        "train/once": ((1.0, 2.0),),
        "train/logit_scale": ((1.0, -1.0), (2.0, 1.0)),
    }
    loss, scale = training_charts(metrics)
    assert (loss.title, [line.name for line in loss.lines], loss.log_y) == ("loss", ["train", "evaluation"], True)
    assert (scale.title, scale.log_y) == ("logit scale", False)
    assert [chart.title for chart in training_charts(metrics, names=["steps_per_second", "absent"])] == [
        "steps per second"
    ]
