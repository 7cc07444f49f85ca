"""The evaluation of edits: the judge of places and switches, and a run with an untrained unCLIP."""

import numpy as np
import pytest
from small_unclip import write_unclip

import dalle_jax
from dalle_jax.evaluate.metrics.shares import Share
from dalle_jax.evaluate.suites.evaluate_edits import (
    MOVED,
    EvaluateEdits,
    Switch,
    evaluate_edits,
    has_moved,
    only_object,
    switches,
)
from dalle_jax.scenes.grammar import parse
from dalle_jax.scenes.rendering import LATTICE, render


def drawn(caption: str, seed: int = 0) -> np.ndarray:
    return render(parse(caption), 32, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("values", "once", "only_ends"),
    [
        (["red", "red", "blue", "blue"], True, True),
        (["red", "purple", "blue"], True, False),
        (["red", None, "blue"], True, False),
        (["red", "blue", "red", "blue"], False, True),
        (["red", "red", "red"], False, True),
        (["blue", "blue"], False, True),
        ([None, "red", "blue"], False, False),
    ],
)
def test_an_attribute_switches_once_from_its_first_value_to_its_second(values, once, only_ends):
    assert switches(values, ("red", "blue")) == Switch(once, only_ends)


def test_a_place_has_moved_by_the_least_move_of_a_scene_and_a_size_has_changed():
    image = drawn("a small red circle")
    seen, moved = only_object(image), only_object(np.roll(image, 1, axis=1))
    assert MOVED < 1 / LATTICE
    assert has_moved(seen, moved) and not has_moved(seen, seen)
    assert has_moved(seen, only_object(drawn("a big red circle")))
    assert not has_moved(seen, None) and only_object(drawn("a red circle above a blue square")) is None


@pytest.mark.slow
def test_every_kind_of_edit_is_counted_over_all_cases(tmp_path):
    write_unclip(tmp_path)
    lines: list[str] = []
    config = EvaluateEdits(cases=3, frames=2, shown=2)
    findings = evaluate_edits(dalle_jax.load(tmp_path, batch=4), config, lines.append)
    assert [one.name for one in findings] == ["vary", "interpolate", "edit"] and len(lines) == 3
    for one in findings:
        assert one.count == 3 and len(one.cases) == 2
        shares = {measure.key: measure.value for measure in one.measures if isinstance(measure.value, Share)}
        codes = shares.pop("codes_returned", None)
        assert codes is None or codes.count == 3 * 16
        assert shares and all(share.count == 3 for share in shares.values())
    keys = {f"{one.name}.{measure.key}" for one in findings for measure in one.measures}
    assert {"vary.same_attributes", "vary.place_or_size_changed", "edit.colour_changed_shape_kept"} <= keys
    assert len(findings[1].cases[0].images) == 2  # frames
