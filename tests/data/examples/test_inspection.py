import io
import json

import numpy as np
import pytest
from PIL import Image

from dalle_jax.data.examples.images import Images
from dalle_jax.data.examples.inspection import CELL, inspect
from dalle_jax.data.examples.record_filters import Filters
from dalle_jax.data.sources.scenes import Scenes
from dalle_jax.data.sources.webdataset import WebDataset
from dalle_jax.evaluate.report.inspection_page import contact_sheet, format_text, inspection_page, to_json
from dalle_jax.images.contact import GREY, ORANGE, contact_cell
from dalle_jax.images.crops import Box
from tests.data.tars import sample, write


def png(width, height, value):
    out = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(out, format="PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    members = [
        one for place in range(8) for one in sample(f"{place:03d}", f"the {place} Cat's cat", png(40, 30, place))
    ]
    members += sample("100", "a wide one", png(100, 20, 9))
    members += sample("101", "no image", b"<html>not here</html>")
    members += sample("102", "cut short", png(30, 30, 3)[:-20])
    members += sample("103", "x", png(40, 30, 11))
    members += sample("104", "the 1 Cat's cat", png(40, 30, 2))
    members += sample("105", None, None)[:1]
    members += sample("000", "again", png(9, 9, 9))
    path = write(folder / "a.tar", *members)
    return WebDataset(files=(str(path),)).open()


@pytest.fixture(scope="module")
def findings(records):
    config = Images(size=16, crop="centre", filters=Filters(max_aspect=2.0, min_characters=2), bad_share=0.0)
    return inspect(records, config, max_examples=100, cells=9)


def test_every_record_is_counted_once_as_usable_dropped_or_bad(findings):
    content = to_json(findings)
    assert (content["listed"], content["examined"], content["usable"]) == (13, 13, 9)
    assert {kind: one["count"] for kind, one in content["dropped"].items()} == {"aspect": 1, "caption length": 1}
    bad = {kind: [record["key"] for record in one["records"]] for kind, one in content["bad"].items()}
    assert bad["not an image"] == ["101"] and bad["truncated"] == ["102"] and bad["no caption"] == ["105"]
    assert bad["duplicate key"] == ["000"]
    assert content["sizes"][0] == {"width": 40, "height": 30, "count": 10}


def test_repeated_images_and_captions_are_found_with_their_keys(findings):
    same = to_json(findings)["same"]
    assert same["image"] == {"count": 1, "examples": [["002", "104"]]}
    assert same["caption"] == {"count": 1, "examples": [["001", "104"]]}
    assert same["key"]["count"] == 0


def test_words_and_quantiles_describe_captions_and_crops(findings):
    content = to_json(findings)
    assert content["words"]["cat's"] == content["words"]["cat"] == 9
    assert content["numbers"]["characters of a caption"]["most"] == len("the 1 Cat's cat")
    assert content["numbers"]["share of the image that is kept"]["median"] == pytest.approx(30 / 40)
    assert content["numbers"]["longer side / shorter side"]["most"] == 5.0


def test_the_sheet_is_spread_over_the_source_and_the_page_escapes_what_captions_say(findings):
    assert 5 <= len(findings.sheet) <= 9
    assert {one.dropped for one in findings.sheet} >= {None}
    sheet = contact_sheet(findings)
    assert sheet.shape[1] >= CELL * min(10, len(findings.sheet))
    content = to_json(findings)
    made = inspection_page("<b>title</b>", content, sheet)
    assert "<b>title" not in made and "&lt;html&gt;" in made and "duplicate key" in made
    assert "9 usable" in format_text(content) and "dropped: 1 aspect (100)" in format_text(content)


def test_values_of_metadata_are_counted_and_fields_that_differ_in_every_record_are_in_the_json_alone(tmp_path):
    members = []
    for number, colour in enumerate(("red", "red", "<blue>")):
        metadata = {"colour": colour, "number": number, "boxes": [1, 2], "none": None}
        members += [*sample(str(number), image=png(8, 8, number)), (f"{number}.json", json.dumps(metadata).encode())]
    records = WebDataset(files=(str(write(tmp_path / "a.tar", *members)),)).open()
    content = to_json(inspect(records, Images(size=8), max_examples=9, cells=0))
    assert content["metadata"]["colour"] == {"count": 3, "values": 2, "most": {"red": 2, "<blue>": 1}}
    assert content["metadata"]["number"]["values"] == 3 and set(content["metadata"]) == {"colour", "number"}
    assert "metadata colour: 2 values in 3 records, red 2, <blue> 1" in format_text(content)
    assert "metadata number" not in format_text(content)
    assert "&lt;blue&gt; 1" in inspection_page("title", content, None)


def test_a_large_source_is_sampled_evenly():
    source = Scenes(size=16, levels=(1,), count=1000, seed=0, split="train").open()
    found = inspect(source, Images(size=16), max_examples=11, cells=4)
    assert (found.listed, found.examined, found.usable) == (1000, 11, 11)
    keys = [int(one.key.rpartition("/")[2]) for one in found.sheet]
    assert len(keys) == 4 and keys[0] == 0 and keys[-1] > 700


def test_a_cell_shows_the_whole_image_with_the_box_of_its_crop():
    pixels = np.zeros((20, 40, 3), np.uint8)
    plain = contact_cell(pixels, 80)
    assert plain.shape == (80, 80, 3)
    assert (plain[:20] == GREY).all() and not plain[20:60].any() and (plain[60:] == GREY).all()
    boxed = contact_cell(pixels, 80, Box(10.0, 0.0, 20.0))
    rows, columns = np.nonzero((boxed == ORANGE).all(axis=-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 59, 20, 59)
    for box in (Box(0.0, 0.0, 0.1), Box(39.9, 19.9, 0.1)):
        assert contact_cell(pixels, 80, box).shape == (80, 80, 3)
