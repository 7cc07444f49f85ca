"""The code blocks of docs/editing.md, in order, with a small untrained unCLIP."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_unclip import write_unclip

PAGE = Path(__file__).parents[3] / "docs" / "editing.md"


@pytest.mark.slow
def test_every_code_block_of_the_page_runs(tmp_path, monkeypatch):
    (tmp_path / "runs" / "demo-unclip").mkdir(parents=True)
    write_unclip(tmp_path / "runs" / "demo-unclip")
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    for name in ("photo", "best", "a", "b"):
        Image.fromarray(pixels if name != "b" else pixels[::-1]).save(f"{name}.png")
    mask = np.zeros((24, 20), bool)
    mask[5:12, 4:14] = True
    Image.fromarray(mask).save("mask.png")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 6
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    filled, wider = (np.asarray(Image.open(f"{name}.png")) for name in ("filled", "wider"))
    np.testing.assert_array_equal(filled[~mask], pixels[~mask])
    np.testing.assert_array_equal(wider[:, 10:30], pixels)
    assert wider.shape == (24, 70, 3)
    assert len(names["filled"].images) == 2
