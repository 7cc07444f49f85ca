"""Preprocessing against OpenAI's transform and Hugging Face's processor, for equality."""

import json

import numpy as np
import pytest
from PIL import Image

from dalle_jax.images.clip_pixels import clip_pixels
from tests.parity.fixtures import fixture, normalise

PREFIXES = {"openai": "out_", "hugging_face": "hf_out_"}


@pytest.mark.parametrize("convention", PREFIXES)
def test_every_image_is_preprocessed_to_the_last_bit(convention):
    folder, io, _ = fixture("clip_preprocess")
    config = json.loads((folder / "meta.json").read_text())["config"]
    prefix = PREFIXES[convention]
    names = [name for name in io if name.startswith(prefix)]
    assert names
    for name in names:
        image = Image.open(folder / f"image_{name.removeprefix(prefix)}.png")
        pixels = clip_pixels(image, config["size"], convention)
        got = normalise(pixels, tuple(config["mean"]), tuple(config["std"]))
        np.testing.assert_array_equal(got.transpose(2, 0, 1), io[name], err_msg=name)
