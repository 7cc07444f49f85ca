"""Small sets of images in files, and extractors without networks."""

import numpy as np

from dalle_jax.images.png import encode_png


class MeanColours:
    """A feature extractor without a network: the mean colour of each quarter of an image, 12 numbers."""

    name, width = "mean-colours none", 12

    def features(self, images):
        rows = images.reshape(len(images), 2, images.shape[1] // 2, 2, images.shape[2] // 2, 3)
        return rows.mean(axis=(2, 4)).reshape(len(images), 12).astype(np.float32)


class MeanDistance:
    """A distance of images without a network: that of their mean grey."""

    name = "mean-grey none"

    def distance(self, one, other):
        return np.abs(one.mean(axis=(1, 2, 3)) - other.mean(axis=(1, 2, 3))).astype(np.float32)


class ColourNames:
    """A CLIP without networks: an image's vector is its mean colour, and so is a caption's, such as "10 20 30"."""

    def image_vectors(self, images):
        return self._unit(images.mean(axis=(1, 2)))

    def text_vectors(self, texts):
        return self._unit(np.array([[float(number) for number in text.split()] for text in texts]))

    def similarity(self, images, texts):
        return self.image_vectors(images) @ self.text_vectors(texts).T

    def _unit(self, rows):
        rows = rows - 127.5
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def write_images(folder, count, seed, size=8, captions=True, shift=0):
    """Write noise images about a random colour each, whose caption is the colour; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        colour = rng.integers(20, 235, 3)
        noise = rng.integers(-15, 16, (size, size, 3))
        image = np.clip(colour + noise + shift, 0, 255).astype(np.uint8)
        (folder / f"{number:04}.png").write_bytes(encode_png(image))
        if captions:
            (folder / f"{number:04}.txt").write_text(" ".join(map(str, colour)))
    return folder
