import re
from html import unescape

import numpy as np
import pytest
from jinja2 import UndefinedError

from dalle_jax.evaluate.report.environment import render
from dalle_jax.evaluate.report.inspection_page import format_text, inspection_page

EMPTY = {
    "listed": 0,
    "examined": 0,
    "usable": 0,
    "bad": {},
    "dropped": {},
    "formats": {},
    "sizes": [],
    "numbers": {},
    "words": {},
    "metadata": {},
    "same": {},
    "truncated": None,
}
CONTENT = EMPTY | {
    "listed": 1200,
    "examined": 3,
    "usable": 1,
    "bad": {"truncated": {"count": 1, "records": [{"key": "<b>.png", "reason": "ends & stops " + "x" * 200}]}},
    "dropped": {"side": {"count": 6, "records": [{"key": f"{i}.png"} for i in range(6)]}},
    "sizes": [{"width": 40, "height": 30, "count": 2}],
    "numbers": {"width": {"least": 40.0, "p5": 40.0, "median": 40.0, "p95": 100.125, "most": 101.0}},
    "words": {"<i>": 4},
    "metadata": {"style": {"count": 3, "values": 2, "most": {"<noto>": 2, "plain": 1}}},
    "same": {"key": {"count": 1, "examples": [["a", "b"]]}},
}


def rows(page):
    """Return the cells of every table row as text."""
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in re.findall(r"<tr>.*?</tr>", page)]
    return [[unescape(re.sub(r"<(?!br)[^>]+>", "", cell)) for cell in row] for row in found]


def test_every_finding_has_its_row():
    shown = rows(inspection_page("t", CONTENT, None))
    assert ["side", "6", "0.png<br>1.png<br>2.png<br>3.png<br>4.png"] in shown
    assert ["40 × 30", "2"] in shown
    assert ["width", "40", "40", "40", "100.1", "101"] in shown
    assert ["key", "1", "a = b"] in shown
    assert ["<i>", "4"] in shown
    [cut] = [row for row in shown if row[0] == "truncated"]
    assert cut[2].startswith("<b>.png: ends & stops xx") and cut[2].endswith("x…") and len(cut[2]) == 160


def test_text_of_the_data_is_escaped():
    page = inspection_page("<script>", CONTENT, np.zeros((2, 2, 3), np.uint8))
    assert "<script" not in page and "<i>" not in page and "<b>" not in page
    assert page.count("data:image/png;base64,") == 1


def test_tables_without_rows_read_none():
    page = inspection_page("t", EMPTY, None)
    assert "<table" not in page and "<img" not in page
    assert page.count(": none.</p>") == 8


def test_an_undefined_name_in_a_template_is_an_error():
    with pytest.raises(UndefinedError, match="'content' is undefined"):
        render("inspection.html.j2", title="t", sheet=None)


def test_the_text_holds_kinds_with_keys_and_quantiles():
    lines = format_text(CONTENT).splitlines()
    assert lines[0] == "1200 listed, 3 examined, 1 usable"
    assert "dropped: 6 side (0.png, 1.png, 2.png)" in lines
    assert "width: 40 / 40 / 40 / 100.1 / 101 (minimum/5 %/median/95 %/maximum)" in lines
    assert "same key: 1 (a and b)" in lines
    assert "metadata style: 2 values in 3 records, <noto> 2, plain 1" in lines
