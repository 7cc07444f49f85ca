import re
from collections import Counter

import pytest

from dalle_jax.data.examples.caption_blend import Blend, choose_caption
from dalle_jax.data.records import Record


def record(*captions, **metadata):
    return Record(key="1", image=b"", captions=captions or ("own",), metadata=metadata)


def test_fields_are_chosen_in_proportion_to_their_weights():
    offers = Blend().weighted_captions(record("own", synthetic="made"))
    assert offers == [(0.95, ("made",)), (0.05, ("own",))]
    counts = Counter(choose_caption(offers, 1, epoch, index) for epoch in range(10) for index in range(2000))
    assert counts["own"] / 20_000 == pytest.approx(0.05, abs=0.006)  # four standard deviations


def test_captions_of_a_field_are_equally_likely_and_independent_of_the_choice_of_field():
    offers = Blend(("a", "b"), (1.0, 3.0)).weighted_captions(record(a=["a0", "a1"], b=["b0", "b1"]))
    counts = Counter(choose_caption(offers, 7, 0, index) for index in range(8000))
    for text, share in {"a0": 0.125, "a1": 0.125, "b0": 0.375, "b1": 0.375}.items():
        assert counts[text] / 8000 == pytest.approx(share, abs=0.022)


def test_a_choice_depends_on_seed_epoch_and_index_alone():
    offers = Blend(weights=(0.5, 0.5)).weighted_captions(record("own", synthetic="made"))
    first = [choose_caption(offers, 1, 0, index) for index in range(400)]
    assert first == [choose_caption(offers, 1, 0, index) for index in range(400)]
    for other in ((2, 0), (1, 1)):
        same = sum(choose_caption(offers, *other, index) == one for index, one in enumerate(first))
        assert same / 400 == pytest.approx(0.5, abs=0.1)


def test_the_other_fields_share_the_weight_of_a_missing_field():
    assert Blend().weighted_captions(record("own")) == [(0.05, ("own",))]
    assert {
        choose_caption(Blend().weighted_captions(record("own", synthetic=" ")), 0, 0, index) for index in range(50)
    } == {"own"}
    assert Blend(("synthetic",), (1.0,)).weighted_captions(record("own", synthetic=3)) == []
    assert Blend().weighted_captions(record("own", caption="in the files")) == [(0.05, ("in the files",))]


def test_a_field_of_weight_0_is_chosen_only_if_the_record_has_no_other():
    blend = Blend(("alt", "caption"), (0.0, 1.0))
    assert {choose_caption(blend.weighted_captions(record("own", alt="alt")), 0, 0, index) for index in range(200)} == {
        "own"
    }
    assert choose_caption(Blend(("alt", "text"), (0.0, 1.0)).weighted_captions(record(alt="alt")), 0, 0, 0) == "alt"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (Blend((), ()), "fields.*weights"),
        (Blend(("a", "a"), (1.0, 1.0)), "fields"),
        (Blend(("a",), (1.0, 1.0)), "weights"),
        (Blend(("a", "b"), (0.0, 0.0)), "weights"),
        (Blend(("a", "b"), (-1.0, 2.0)), "weights"),
        (Blend(("a", "b"), (float("nan"), 2.0)), "weights"),
    ],
)
def test_an_invalid_blend_is_reported_by_field(wrong, named):
    assert re.search(named, " ".join(wrong.problems()))
    assert Blend().problems() == []
