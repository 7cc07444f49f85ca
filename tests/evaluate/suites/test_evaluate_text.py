import numpy as np
import pytest
from fake_pipeline import FakePipeline

from dalle_jax.evaluate.readers.text_reader import SceneTextReader
from dalle_jax.evaluate.report.evaluation_page import evaluation_page
from dalle_jax.evaluate.suites import evaluate_text as suite
from dalle_jax.evaluate.suites.drawing import Drawing
from dalle_jax.evaluate.suites.evaluate_text import EvaluateText, evaluate_text, read_signs


class Capitals:
    """A reader that reads "A" on every image."""

    name = "capitals 1.0"

    def read(self, images):
        return ["A"] * len(images)


@pytest.fixture(scope="module")
def findings():
    config = EvaluateText(Drawing(candidates=2), captions=5, readers=("scenes",), shown=3)
    lines = []
    return evaluate_text(FakePipeline(right={1}), config, lines.append), lines


def test_clean_signs_and_clip_choices_are_right_and_wrong_first_candidates_are_wrong(findings):
    found, lines = findings
    for split in ("seen", "held_out"):
        right = {which: found.accuracy(split, which, 0).word_accuracy.value for which in found.signs[split]}
        assert right == {"clean": 1.0, "first": 0.0, "chosen": 1.0}
    assert lines[0] == (
        "seen letter pairs, words right by scene reader: clean signs 100 %, first candidate 0 %, CLIP's choice 100 %"
    )


def test_readers_agree_where_they_read_the_same_word():
    image = np.zeros((32, 32, 3), np.uint8)
    captions = ['a red sign that says "A"', 'a red sign that says "B"']
    signs = read_signs([image, image], captions, [Capitals(), SceneTextReader()])
    found = suite.TextFindings({"tesseract": "capitals 1.0", "scenes": "scene reader"}, {"seen": {"first": signs}}, 2)
    assert [one.read for one in signs] == [("A", ""), ("A", "")]
    assert found.agreement("first").value == 0.0
    json = found.to_json()
    assert json["tesseract"]["seen"]["first"]["word_accuracy"] == 0.5
    assert json["agreement"] == {"first": 0.0}
    assert [one.edits for one in signs] == [1, 1]


def test_the_page_shows_the_worst_readings_first(findings):
    found, _ = findings
    panel = found.panel()
    assert [len(group.images) for group in panel.images] == [3, 3]
    assert all(one.right is False for group in panel.images for one in group.images)
    page = evaluation_page("signs", "evaluation.json", {"text": panel})
    assert 'data-path="text/scenes/seen/first/word_accuracy"' in page
    assert page.count("✗ wrong") == 6


@pytest.mark.parametrize("readers", [(), ("scenes", "scenes")])
def test_wrong_readers_are_an_error(readers):
    with pytest.raises(ValueError, match="readers: expected one or more of scenes, tesseract, rapidocr, each once"):
        EvaluateText(Drawing(), readers=readers)
