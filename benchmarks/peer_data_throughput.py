"""Captioned images read from tars by the package webdataset with PIL, as in webdataset's manual."""

import os
from pathlib import Path

import numpy as np
import webdataset
from peer_sizes import BATCH, BATCHES, SIZE
from PIL import Image


def square(image: Image.Image) -> np.ndarray:
    """Blend an image over white, as ours are, cut a random square of its shorter side and resize it."""
    if image.mode == "RGBA":
        under = Image.new("RGB", image.size, (255, 255, 255))
        under.paste(image, mask=image)
        image = under
    side = min(image.size)
    left, top = (np.random.randint(0, length - side + 1) for length in image.size)
    part = image.crop((left, top, left + side, top + side))
    return np.asarray(part.resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def tars():
    """Return a function that loads 8 shuffled batches of 64 decoded, cropped and resized images."""
    folder = Path(os.environ["DALLE_JAX_DATA"]) / "emoji"
    dataset = (
        webdataset.WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=100)
        .repeat()
        .shuffle(1000)
        .decode("pil")
        .to_tuple("png", "txt")
        .map_tuple(square, str)
        .batched(BATCH, partial=False)
    )
    batches = iter(dataset)

    def call():
        for _ in range(BATCHES):
            images, captions = next(batches)
            assert np.stack(images).shape == (BATCH, SIZE, SIZE, 3)
            assert len(captions) == BATCH

    return call


CASES = {"tars": tars}
