"""Forty small captioned images, and settings that make the configs of docs/your_data.md small enough for them."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "white": (250, 250, 250)}
IMAGES = 40
SMALL = {
    "all": "stages.tokenizer = '{here}/tokenizer.gin'\nstages.clip = '{here}/clip.gin'\n"
    "stages.transformer = '{here}/transformer.gin'\n"
    "stages.text = '{here}/text.gin'\nstages.evaluation = '{here}/evaluation.gin'\ndata.images.size = 16\n"
    "data.evaluation.share = 0.45",
    "text": "vocabulary = 40\nheld_out.share = 0.45",
    "tokenizer": "task.image_size = 16\ntask.model.width = 8\ntask.model.blocks = 1\ntask.model.codebook_size = 16\n"
    "data.batch_size = 8\ntrainer.images_every = None\ntrainer.steps = 2\nmesh.data = 1\ndata.images.size = 16\n"
    "data.evaluation.share = 0.45",
    "clip": "task.model.image_size = 16\ntask.model.patch = 8\ntask.model.vision.width = 8\ntask.model.text.width = 8\n"
    "task.model.vision.layers = 1\ntask.model.text.layers = 1\ntask.model.vocab_size = 40\ntrainer.steps = 2\n"
    "mesh.data = 1\n"
    "data.batch_size = 8\ndata.images.size = 16\ndata.evaluation.share = 0.45",
    "transformer": "task.image_size = 16\ntask.model.grid = (4, 4)\ntask.model.codebook_size = 16\ntrainer.steps = 2\n"
    "mesh.data = 1\n"
    "task.model.width = 16\ntask.model.heads = 1\ntask.model.depth = 1\ntask.model.text_vocab = 40\n"
    "data.batch_size = 8\ntrainer.images_every = None\ndata.images.size = 16\ndata.evaluation.share = 0.45",
    "evaluation": "evaluations.captioned.captions = 4\nevaluations.captioned.shown = 2\n"
    "evaluations.captioned.among = 6\nevaluations.captioned.drawing.candidates = 2\n"
    "evaluations.captioned.drawing.batch = 8\ndata.images.size = 16\n"
    "data.evaluation.share = 0.45",
}
"""What is said beside each config of configs/runs/your_data, by its name; ``here`` is the folder of the small ones."""


def captioned() -> Iterator[tuple[str, bytes, str]]:
    """Return names, PNGs of 20 x 16 px and captions: a coloured square on a background of a different colour."""
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        inside, ground = rng.choice(list(COLOURS), 2, replace=False)
        image = np.empty((16, 20, 3), np.uint8)
        image[:], image[4:12, 6:14] = COLOURS[ground], COLOURS[inside]
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG")
        yield f"{number:02d}", content.getvalue(), f"a {inside} square on {ground}\n"
