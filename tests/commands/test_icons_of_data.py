"""Icons that ``evaluate`` takes from the data of a run, with the split that training has."""

import io
import json

import pytest
from PIL import Image

from dalle_jax.commands.measuring.run_suites import icons_of
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.icon_colours import GLYPHS, IconColours, read_icon
from dalle_jax.evaluate.suites.evaluate_icon_colours import EvaluateIconColours
from dalle_jax.runs import EvaluateRun, load_run
from tests.data.tars import write


def png(colour):
    file, icon = io.BytesIO(), Image.new("RGB", (16, 16), "white")
    icon.paste(GLYPHS[colour], (4, 4, 12, 12))
    icon.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def tar(tmp_path_factory):
    members = []
    for number in range(36):
        metadata = {"thing": f"thing {number % 4}", "colour": ("red", "blue", "mauve")[number % 3], "style": "flat"}
        colour = "pink" if metadata["colour"] == "mauve" else metadata["colour"]
        members += [(f"{number}.png", png(colour)), (f"{number}.txt", f"a {colour} thing".encode())]
        members.append((f"{number}.json", json.dumps({**metadata, "background": "white"}).encode()))
    return str(write(tmp_path_factory.mktemp("tars") / "a.tar", *members))


def run_of(tar, *sets):
    files = f"data.source.files=('{tar}',)"
    return load_run("runs/real/colours.gin", EvaluateRun, [files, "data.images.size=16", *sets])


def icons(run):
    (config,) = run.evaluations.values()
    assert isinstance(config, EvaluateIconColours)
    assert run.data is not None
    return icons_of(run.data.with_batch_size(1), config)


def test_icons_of_both_splits_have_named_colours_that_the_reader_finds(tar):
    found = icons(run_of(tar, "data.evaluation.share=0.3"))
    assert len(found["seen"]) + len(found["held_out"]) == 24  # mauve is not a name that is read
    assert found["held_out"]
    for icon in (*found["seen"], *found["held_out"]):
        assert icon.colours == read_icon(icon.image) and icon.colours.glyph in icon.caption
        assert icon.colours in (IconColours("red", "white"), IconColours("blue", "white"))


def test_data_of_which_no_rule_holds_records_out_is_refused(tar):
    with pytest.raises(UserError, match=r"expected one source of images with @HeldOutPairs or @HeldOut"):
        icons(run_of(tar, "data.evaluation=None"))
