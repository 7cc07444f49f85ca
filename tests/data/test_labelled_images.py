import io
import json

import pytest
from PIL import Image

from dalle_jax.config.errors import UserError
from dalle_jax.data.examples.held_out import HeldOut
from dalle_jax.data.examples.held_out_pairs import HeldOutPairs
from dalle_jax.data.examples.images import Images
from dalle_jax.data.labelled_images import read_labelled_images
from dalle_jax.data.sources.scenes import Scenes
from dalle_jax.data.sources.webdataset import WebDataset
from tests.data.tars import sample, write

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (12, 8), COLOURS[colour]).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def tar(tmp_path):
    members = []
    for number in range(24):
        colour = ("red", "blue")[number % 2]
        members += [(f"{number}.png", png(colour)), (f"{number}.txt", f"a {colour} thing".encode())]
        metadata = {"thing": f"thing {number // 4}", "colour": colour, "wanted": number != 5}
        members.append((f"{number}.json", json.dumps(metadata).encode()))
    members += sample("broken", image=b"no image")
    return WebDataset((str(write(tmp_path / "a.tar", *members)),), images=("png", "jpg"))


def test_wanted_images_of_both_parts_are_cropped_and_keep_their_metadata(tar):
    rule = HeldOutPairs((("thing", "colour"),), 0.4)
    training, held = read_labelled_images(tar, Images(size=4), rule, lambda one: bool(one.get("wanted")), 99)
    assert len(training) + len(held) == 23 and held
    for one in training + held:
        assert one.caption == f"a {one.metadata['colour']} thing"
        assert (one.image == COLOURS[one.metadata["colour"]]).all() and one.image.shape == (4, 4, 3)
    pairs = [{(one.metadata["thing"], one.metadata["colour"]) for one in part} for part in (training, held)]
    assert not pairs[0] & pairs[1]


def test_a_smaller_count_takes_evenly_spaced_images_and_bad_ones_are_left_out(tar):
    training, held = read_labelled_images(tar, Images(size=4), HeldOut(count=0), lambda one: True, 5)
    assert [one.metadata.get("thing") for one in training] == ["thing 0", "thing 1", "thing 2", "thing 3", "thing 5"]
    assert held == []


def test_rendered_scenes_have_no_metadata_and_are_refused():
    scenes = Scenes(size=16, levels=(1,), count=8, seed=0, split="train")
    with pytest.raises(UserError, match=r"data\.source: expected images in files, with metadata, got Scenes"):
        read_labelled_images(scenes, Images(size=4), HeldOut(count=1), lambda one: True, 5)
