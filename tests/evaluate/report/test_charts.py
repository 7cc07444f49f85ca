import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle_jax.evaluate.report.charts import HEIGHT, WIDTH, Chart, Line, drawing, log_ticks, nice_ticks, tick_label
from dalle_jax.evaluate.report.environment import render

NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=32)


def svg(chart):
    return render("chart.svg.j2", chart=drawing(chart))


def path_places(drawing, number=0):
    data = ElementTree.fromstring(drawing).findall("path")[number].attrib["d"]
    return [tuple(map(float, pair.split())) for pair in data[1:].split("L")]


def test_points_are_placed_in_proportion():
    places = path_places(svg(Chart("t", "x", (Line("a", ((0.0, 0.0), (5.0, 5.0), (10.0, 10.0))),))))
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    assert x0 < x1
    assert y0 > y1  # larger is higher


def test_a_log_axis_places_factors_in_proportion():
    chart = Chart("t", "x", (Line("a", ((1.0, 0.01), (4.0, 0.1), (16.0, 1.0))),), log_x=True, log_y=True)
    (x0, y0), (x1, y1), (x2, y2) = path_places(svg(chart))
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)


def test_percent_charts_span_0_to_100_percent():
    drawn = svg(Chart("t", "x", (Line("a", ((1.0, 0.5), (2.0, 0.6))),), percent=True))
    assert ">0 %<" in drawn
    assert ">100 %<" in drawn


def test_names_are_escaped_and_stand_in_the_label():
    drawn = svg(Chart("<b>", "x", (Line('a & "b"', ((0.0, 1.0), (1.0, 2.0))),)))
    element = ElementTree.fromstring(drawn)
    assert element.attrib["aria-label"] == '<b> against x: a & "b" ends at 2'


def test_a_chart_without_points_reads_no_data():
    assert "no data" in svg(Chart("t", "x", (Line("a", ((1.0, float("nan")),)),)))
    assert "no data" in svg(Chart("t", "x", (Line("a", ((1.0, -1.0),)),), log_y=True))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=15), max_size=7), st.booleans(), st.booleans())
def test_any_points_give_well_formed_drawings_inside_the_frame(lines, log_x, log_y):
    chart = Chart("t", "x", tuple(Line(str(i), tuple(points)) for i, points in enumerate(lines)), log_x, log_y)
    drawn = svg(chart)
    ElementTree.fromstring(drawn)
    assert not re.search(r"nan|inf", drawn)
    for number in range(drawn.count("<path")):
        for x, y in path_places(drawn, number):
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_enclose_the_values(low, span):
    ticks = nice_ticks(low, low + span)
    assert ticks[0] <= low + 1e-6 * span
    assert ticks[-1] >= low + span - 1e-6 * span
    assert 2 <= len(ticks) <= 9


def test_ticks_of_known_ranges():
    assert nice_ticks(0, 1) == pytest.approx((0, 0.2, 0.4, 0.6, 0.8, 1.0))
    assert log_ticks(0.012, 0.9) == pytest.approx((0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1))
    assert log_ticks(1e-6, 1) == pytest.approx(tuple(10.0**k for k in range(-6, 1)))


@pytest.mark.parametrize(("value", "label"), [(12000, "12k"), (0.1 + 0.2, "0.3"), (2.5e6, "2.5M"), (0, "0")])
def test_labels_are_short(value, label):
    assert tick_label(value) == label


def test_labels_of_given_ticks_that_would_overlap_give_way_to_ticks_that_do_not():
    xs = (20.1234, 20.2345, 20.31, 24.5, 31.25)
    for ticks in (xs, ()):
        marks = drawing(Chart("t", "x", (Line("a", tuple((x, 1.0) for x in xs)),), x_ticks=ticks)).x_marks
        places = [(float(one.at), len(one.label) * 6.7 / 2) for one in marks]
        assert len(places) >= 3
        assert all(b - half_b > a + half_a for (a, half_a), (b, half_b) in itertools.pairwise(places))
    kept = drawing(Chart("t", "x", (Line("a", ((1, 1.0), (7, 2.0))),), x_ticks=(1, 7))).x_marks
    assert [one.label for one in kept] == ["1", "7"]
