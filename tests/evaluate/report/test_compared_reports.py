"""Evaluations stand beside each other where they are comparable."""

import json
import re

import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.report.compared_reports import compare_reports
from dalle_jax.evaluate.report.evaluation_page import evaluation_page


def share(value, count=40):
    return {"value": value, "count": count, "interval_95": [value - 0.1, value + 0.1]}


def report(folder, right, **fd):
    atoms = {"by_held_out_share": {"0.00": share(right), "0.50": share(right / 2), "1.00": share(0.1)}}
    atoms["by_number"] = {"3": {"captions": share(right), "atoms": share(0.9)}}
    cell = {"first": right, "count": 40, "interval_95": {"first": [0.1, 0.9]}, "parts": {}}
    measured = {"value": 2.0, "count": 100, "noise": 1.0, "reference_count": 100, "features": "a", **fd}
    scenes = {"atoms": {"first": atoms}, "composition": {"level_1": {"seen": cell}}}
    content = {"scenes": scenes, "images": {"fd": measured}}
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps(content))
    return folder


def test_curves_of_several_models_are_lines_of_one_plot(tmp_path):
    found = compare_reports([report(tmp_path / "one", 0.8), report(tmp_path / "other", 0.4)])
    plot = found.plots[0]
    assert [line.name for line in plot.lines] == ["one", "other"] and plot.percent
    assert plot.lines[1].points == ((0.0, 0.4), (0.5, 0.2), (1.0, 0.1))
    assert [one.lines[0].points for one in found.plots[1:]] == [((3.0, 0.8),)]
    content = found.to_json()
    assert content["other"]["scenes/composition/level_1/seen/first"]["value"] == 0.4
    page = evaluation_page("t", "x.json", {"compared": found.panel()})
    assert "images.fd: one" in page and "by held-out combinations" in page


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"features": "b"}, "images.fd is not compared: .*expected features of one network and preparation"),
        ({"count": 50}, "images.fd is not compared: .*expected the same numbers of images, since its value falls"),
    ],
)
def test_figures_that_are_not_comparable_are_left_out_and_said(tmp_path, other, message):
    found = compare_reports([report(tmp_path / "one", 0.8), report(tmp_path / "other", 0.4, **other)])
    assert "images.fd" not in found.figures and len(found.refused) == 1
    assert re.match(message, found.refused[0])


def test_files_that_have_nothing_in_common_are_one_line(tmp_path):
    one = report(tmp_path / "one", 0.8)
    (tmp_path / "b.json").write_text('{"x": {"fd": {"value": 1.0, "count": 3}}}')
    (tmp_path / "c.json").write_text("[1]")
    (tmp_path / "d.json").write_text("{")
    for others, message in (
        ([], "--compare: expected two evaluations or more, got 1"),
        ([tmp_path / "b.json"], "--compare: expected a figure that two evaluations have, got none"),
        ([tmp_path / "c.json"], "expected the JSON of an evaluation, got a list"),
        ([tmp_path / "d.json"], "expected the JSON of an evaluation, got other content"),
        ([tmp_path / "none"], "expected the JSON of an evaluation, found no such file"),
    ):
        with pytest.raises(UserError, match=message):
            compare_reports([one, *others])
