import base64
import dataclasses
import io
import json
import os
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.composition import Composition
from dalle_jax.evaluate.report.accuracy_section import weakest
from dalle_jax.evaluate.report.charts import Chart, Line
from dalle_jax.evaluate.report.formats import duration, format_value
from dalle_jax.evaluate.report.machine import Machine
from dalle_jax.evaluate.report.report_page import report_page
from dalle_jax.evaluate.report.run_report import Comparison, Contender, Figure, RunReport, Stage
from dalle_jax.evaluate.report.write_report import metrics_of, write_metrics, write_report
from dalle_jax.evaluate.suites.findings import Candidate, Sample, SampleGroup
from dalle_jax.scenes.judge import Part

SHOWN = re.compile(r'<data value="([^"]*)" data-path="([^"]*)">([^<]*)</data>')
UNITS = {"%": 100, "dB": 1, "nats": 1}
VOID = {"meta", "img", "br", "line", "path", "circle"}


class Tags(HTMLParser):
    """Parser that collects elements and fails if they are not nested."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def tags_of(text):
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    return tags.seen


def at(metrics, path):
    for key in path.split("/"):
        metrics = metrics[key]
    return metrics


def leaves(value, path=""):
    if isinstance(value, dict):
        return {k: v for name, item in value.items() for k, v in leaves(item, f"{path}/{name}".strip("/")).items()}
    return {path: value}


def test_page_and_json_hold_the_same_figures(report, tmp_path):
    page_path, metrics_path = write_report(report, tmp_path / "new" / "run")
    metrics = json.loads(metrics_path.read_text())
    shown = SHOWN.findall(page_path.read_text(encoding="utf-8"))
    for exact, path, text in shown:
        value = at(metrics, unescape(path))
        assert float(exact) == value, path
        number, _, unit = unescape(text).replace("\xa0", " ").replace(",", "").partition(" ")
        if unit in UNITS:
            assert float(number) == pytest.approx(value * UNITS[unit], abs=0.051 if unit != "nats" else 0.00051), path
    missing = {path for path, value in leaves(metrics).items() if isinstance(value, float)} - {p for _, p, _ in shown}
    assert {
        path for path in missing if "interval" not in path and not path.startswith(("guidance", "machine"))
    } == set()


def test_metrics_have_the_documented_keys(report):
    metrics = metrics_of(report)
    assert metrics["wall_seconds"] == report.wall_seconds
    assert metrics["reconstruction"]["psnr"] == report.reconstruction.psnr
    assert metrics["clip"]["retrieval_top1"] == 0.914
    assert metrics["transformer"]["image_nll"] == 1.234
    for cell in report.composition.cells:
        found = metrics["composition"][f"level_{cell.level}"][cell.split]
        assert {"first", "reranked_4", "any_of_4"} <= found.keys()
        assert found["first"] == cell.first.value


def test_the_page_loads_nothing_and_is_well_formed(report):
    text = report_page(report)
    seen = tags_of(text)
    assert ("meta", {"charset": "utf-8"}) in seen
    assert not any(tag in ("script", "link", "iframe") for tag, _ in seen)
    for tag, attributes in seen:
        source = attributes.get("src") or attributes.get("href")
        assert source is None or source.startswith(("data:image/png;base64,", "#")), source
        assert tag != "img" or attributes["alt"]
        assert tag != "svg" or attributes["aria-label"]
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text


def test_images_have_the_pixels_of_the_samples(report):
    images = [attributes["src"] for tag, attributes in tags_of(report_page(report)) if tag == "img"]
    shown = {np.asarray(Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2])))).tobytes() for src in images}
    for group in report.samples:
        for sample in group.samples:
            assert {sample.first.image.tobytes(), sample.chosen.image.tobytes()} <= shown


def test_text_from_users_is_escaped():
    image = np.zeros((4, 4, 3), np.uint8)
    nasty = '<script>alert("x")</script> & "more"'
    shown = Candidate(image, False, (Part("<i>", nasty, "<u>"),))
    sample = Sample(nasty, shown, shown)
    report = training_report(title=nasty, summary=nasty, config_text=nasty, limits=(nasty,))
    report = dataclasses.replace(report, samples=(SampleGroup(nasty, (sample,)),), command=nasty, sampling=nasty)
    text = report_page(report)
    assert not any(tag in ("script", "i", "u") for tag, _ in tags_of(text))
    assert "&lt;script&gt;" in text


def training_report(**changes):
    chart = Chart("loss", "step", (Line("train", ((1.0, 2.0), (2.0, 1.0))),))
    stage = Stage("tokenizer", "Image tokenizer", 12.0, steps=2, parameters=10, charts=(chart,))
    machine = Machine("CPU", 1, 1, None, None, "Linux x86_64", {})
    given = {"title": "t", "summary": "s", "command": "c", "seed": 0, "config_text": "", "wall_seconds": 12.5}
    return RunReport(**(given | changes), machine=machine, stages=(stage,))


def test_a_report_of_training_alone_has_no_other_sections():
    text = report_page(training_report())
    sections = [attributes["id"] for tag, attributes in tags_of(text) if tag == "section"]
    assert sections == ["training", "times", "again"]
    assert metrics_of(training_report()).keys() == {"title", "command", "seed", "wall_seconds", "stages", "machine"}


def test_images_that_no_reader_can_judge_have_no_verdict():
    sample = Sample("a fox", Candidate(np.zeros((4, 4, 3), np.uint8)))
    text = report_page(dataclasses.replace(training_report(), samples=(SampleGroup("Own captions", (sample,)),)))
    assert "a fox" in text
    assert 'class="verdict' not in text
    assert "judged" not in text


def test_every_part_has_a_sign_and_words():
    parts = (Part("colour", "red", "red"), Part("shape", "ring", "star"), Part("word", "CAT", "nothing"))
    sample = Sample("a fox", Candidate(np.zeros((4, 4, 3), np.uint8), False, parts))
    text = report_page(dataclasses.replace(training_report(), samples=(SampleGroup("Own captions", (sample,)),)))
    marks = re.search(r'<ul class="marks">.*?</ul>', text, flags=re.DOTALL).group()
    assert re.sub(r"<[^>]+>", "", marks) == "✓ colour: red✗ shape: ring (found star)✗ word: CAT (not found)"


def test_nan_and_infinity_become_null_with_a_reason(tmp_path):
    write_metrics(tmp_path / "metrics.json", {"a": {"b": float("nan")}, "c": [np.float32(1.5), float("inf")], "d": 1})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "a": {"b": None},
        "c": [1.5, None],
        "d": 1,
        "unmeasured": {
            "a.b": "the value was nan, which is not a measurement",
            "c.1": "the value was inf, which is not a measurement",
        },
    }
    report = training_report(figures=(Figure("clip.retrieval_top1", "CLIP", float("nan"), "percent"),))
    assert "not\u00a0measured" in report_page(report)


def test_two_figures_at_one_path_are_refused():
    with pytest.raises(ValueError, match="seed: expected one number, got two: 0 and 1"):
        metrics_of(training_report(figures=(Figure("seed", "Seed", 1, "count"),)))


def test_a_chosen_network_that_was_not_compared_is_refused():
    with pytest.raises(ValueError, match=r"chosen: expected one of the compared networks \['a', 'b'\], got 'c'"):
        Comparison((Contender("a", ()), Contender("b", ())), chosen="c", why="")


def test_a_failed_write_is_one_line_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_metrics(path, {"a": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*metrics\.json: No space left on device"):
        write_metrics(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_a_file_instead_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_report(training_report(), tmp_path / "run")


def test_the_weakest_cells_come_weakest_first(report):
    sentences = weakest(report)
    wrong = sorted((cell.chosen.value, cell.level) for cell in report.composition.cells if cell.chosen.value < 1)
    assert len(sentences) == min(3, len(wrong))
    if sentences:
        assert sentences[0].startswith(f"Level {wrong[0][1]}: ")
    assert weakest(dataclasses.replace(report, composition=Composition(()))) == ()


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (0.8349, "percent", "83.5 %"),
        (27.04, "decibel", "27.0 dB"),
        (831.2, "seconds", "13 min 51 s"),
        (4_810_000, "count", "4,810,000"),
        (None, "nats", "not measured"),
    ],
)
def test_figures_have_their_units(value, kind, text):
    assert format_value(value, kind) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.1714, "171 ms"),
        (0.9999, "1.0 s"),
        (8.21, "8.2 s"),
        (59.97, "1 min 0 s"),
        (119.6, "2 min 0 s"),
        (7530, "2 h 5 min"),
    ],
)
def test_durations_never_round_to_60_seconds_or_minutes(seconds, text):
    assert duration(seconds) == text
