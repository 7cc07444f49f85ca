import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.icon_colours import GLYPHS, GROUNDS, IconColours
from dalle_jax.evaluate.suites.drawing import Drawing
from dalle_jax.evaluate.suites.evaluate_icon_colours import EvaluateIconColours, Icon, evaluate_icon_colours
from dalle_jax.pipelines.request import Generation

SIDE = 16
CONFIG = EvaluateIconColours(Drawing(candidates=2), captions=4, shown=1)


def image(colours):
    pixels = np.full((SIDE, SIDE, 3), GROUNDS[colours.ground], np.uint8)
    pixels[4:12, 4:12] = GLYPHS[colours.glyph]
    return pixels


class Painter:
    """A sampler whose first candidate has the right ground alone; the second, which ranks first, is right."""

    side = SIDE

    def draw(self, requests):
        return [self._drawn(one.prompt) for one in requests]

    def _drawn(self, prompt):
        glyph, ground = prompt.split(" on ")
        wrong = next(name for name in GLYPHS if name not in (glyph, ground))
        candidates = np.stack([image(IconColours(wrong, ground)), image(IconColours(glyph, ground))])
        order = np.array([1, 0])
        return Generation(prompt, candidates[order], np.array([1.0, 0.0]), order, candidates, np.array([0.0, 1.0]))


def icon(glyph, ground):
    return Icon(image(IconColours(glyph, ground)), f"{glyph} on {ground}", IconColours(glyph, ground))


def test_colours_of_originals_first_candidates_and_choices_are_read_for_each_split():
    icons = {"seen": [icon("red", "white"), icon("blue", "black")], "held_out": [icon("pink", "gray")]}
    lines = []
    findings = evaluate_icon_colours(Painter(), CONFIG, icons, lines.append)
    found, panel = findings.to_json(), findings.panel()
    right, ground_only = {"glyph": 1.0, "ground": 1.0, "both": 1.0}, {"glyph": 0.0, "ground": 1.0, "both": 0.0}
    for split, count in (("seen", 2), ("held_out", 1)):
        counted = {name: {**shares, "count": count} for name, shares in (("original", right), ("chosen", right))}
        assert found[split] == {**counted, "first": {**ground_only, "count": count}}
    title = "icons of the training data, first candidate"
    assert lines[1] == f"{title}: glyph 0.0 %, ground 100.0 %, both 0.0 % of 2"
    assert [one.value for one in panel.figures[3:6]] == [0.0, 1.0, 0.0]
    ((shown,), _) = (one.images for one in panel.images)
    assert (shown.caption, shown.right, shown.note) == ("red on white", False, "read: orange on white")


def test_data_without_named_colours_is_refused_and_a_split_without_icons_is_left_out():
    with pytest.raises(UserError, match=r"expected records whose metadata name colours in colour and background"):
        evaluate_icon_colours(Painter(), CONFIG, {"seen": [], "held_out": []}, lambda line: None)
    found = evaluate_icon_colours(
        Painter(), CONFIG, {"seen": [icon("red", "white")], "held_out": []}, lambda line: None
    )
    assert list(found.icons) == ["seen"]


def test_records_are_icons_if_both_names_can_be_read():
    named = {"colour": "red", "background": "white"}
    assert CONFIG.is_icon(named) and CONFIG.names(named) == IconColours("red", "white")
    for other in ({**named, "colour": "mauve"}, {**named, "background": None}, {}):
        assert not CONFIG.is_icon(other)
