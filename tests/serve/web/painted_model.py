"""A model of the server that paints without a network, at once, so that the page is tested with the real routes."""

import threading
import time

import numpy as np
from call_runner import CallRunner

from dalle_jax.config.errors import UserError
from dalle_jax.pipelines.request import RequestKeywords, RequestOptions
from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.served_model import Abilities, Tokens
from dalle_jax.serve.engine.works import Drawn, Edit, Finished, Generate, Partial, Vary, Work

SIDE = 32
BROKEN = "break"
"""A prompt whose images are shown in part and then end with an error."""
HELD = "hold"
"""A prompt whose images are shown in part and finished after ``gate`` is set."""
TRANSFORMER = Abilities(
    kind="transformer of codes", side=SIDE, inpaint=True, vary=True, partials=True, ranks=True,
    options=("seed", "candidates", "guidance", "guidance_end", "temperature", "top_k", "top_p", "negative_prompt"),
)  # fmt: skip
DIFFUSION = Abilities(
    kind="unCLIP of codes", side=SIDE, inpaint=True, vary=True, mix=True, options=("seed", "candidates", "guidance"),
    steps=(2, 4, 8),
)  # fmt: skip


class PaintedModel:
    """A model that fills images with colours of seed and candidate. It keeps the works that it did."""

    def __init__(self, name: str, abilities: Abilities) -> None:
        self.name, self.abilities = name, abilities
        self.runner = CallRunner(self.do)
        self.works: list[Work] = []
        self.cancelled = threading.Event()
        self.gate = threading.Event()

    def options(self, given: RequestKeywords) -> RequestOptions:
        return RequestOptions(**({"guidance": 3.0} | given))

    def check(self, work: Work) -> None: ...

    def tokens(self, work: Work) -> Tokens:
        return Tokens(3, 0, 64 * work.options.candidates)

    def warnings(self, work: Work) -> list[str]:
        return ["The prompt is long."] if work.prompt and len(work.prompt) > 60 else []

    def warm(self) -> None: ...

    def do(self, job: Job) -> None:
        work = job.work
        self.works.append(work)
        images = [self.paint(work, candidate) for candidate in range(work.options.kept)]
        for number, share in enumerate(work.shown):
            for image, pixels in enumerate(images):
                height = pixels.shape[0]
                partial = np.where(np.arange(height)[:, None, None] < share * height, pixels, 127).astype(np.uint8)
                job.send(Partial(image, number, partial))
        if isinstance(work, Generate):
            if work.prompt == BROKEN:
                raise UserError("seed: expected another one")
            while work.prompt == HELD and not job.over() and not self.gate.is_set():
                time.sleep(0.005)
            if job.cancelled:
                self.cancelled.set()
        scored = self.abilities.ranks and not isinstance(work, Vary)
        drawn = [Drawn(pixels, i, 0.3 - 0.01 * i if scored else None) for i, pixels in enumerate(images)]
        job.send(Finished(drawn))

    def paint(self, work: Work, candidate: int) -> np.ndarray:
        """Return stripes whose colours depend on seed and candidate; of an edit, the image with them in its hole."""
        generator = np.random.default_rng((work.options.seed, candidate))
        shape = work.images[0].pixels.shape[:2] if isinstance(work, Edit) else (SIDE, SIDE)
        first, second = generator.integers(0, 256, (2, 3))
        stripes = np.add.outer(np.arange(shape[0]), np.arange(shape[1]))[..., None] // 8 % 2
        painted = np.where(stripes, first, second).astype(np.uint8)
        if isinstance(work, Edit) and work.hidden is not None:
            return np.where(work.hidden[..., None], painted, work.images[0].pixels)
        return painted
