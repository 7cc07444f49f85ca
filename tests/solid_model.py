"""A served model without JAX: images of one colour by seed and candidate, drawn in chunks that a test may hold up."""

import threading
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.pipelines.request import RequestOptions
from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.served_model import Abilities, Tokens
from dalle_jax.serve.engine.works import Drawn, Edit, Failed, Finished, Generate, Partial

EVERYTHING = Abilities(
    "solid", side=8, inpaint=True, vary=True, mix=True, partials=True, ranks=True,
    options=("seed", "candidates", "guidance", "temperature", "top_k", "top_p", "negative_prompt"), steps=(2, 4),
)  # fmt: skip


def colour(seed: int, candidate: int) -> np.ndarray:
    value = (seed * 37 + candidate * 101 + 11) % 256
    return np.full((8, 8, 3), value, np.uint8)


@dataclass(eq=False)
class SolidModel:
    """A model that draws ``room`` jobs at once, one step for each partial image and one for the end."""

    name: str = "solid"
    abilities: Abilities = EVERYTHING
    room: int = 4
    gate: threading.Event = field(default_factory=threading.Event)
    jobs: list[tuple[Job, int]] = field(default_factory=list)
    steps: int = 0
    seen: deque[Job] = field(default_factory=lambda: deque(maxlen=100))

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def runner(self) -> "SolidModel":
        return self

    def options(self, given) -> RequestOptions:
        return replace(RequestOptions(candidates=1), **given)

    def check(self, work) -> None:
        if work.prompt == "refuse me":
            raise UserError("prompt: expected another one, got 'refuse me'")
        if isinstance(work, Generate) and work.steps not in (None, *self.abilities.steps):
            raise UserError(f"steps: expected one of {self.abilities.steps}, got {work.steps}")

    def tokens(self, work) -> Tokens:
        images = len(work.images) if isinstance(work, Edit) else 0
        return Tokens(len((work.prompt or "").split()), 4 * images, 4 * work.options.candidates)

    def warnings(self, work) -> list[str]:
        return ["long"] if len(work.prompt or "") > 100 else []

    def warm(self) -> None:
        self.gate.wait()

    @property
    def busy(self) -> bool:
        return bool(self.jobs)

    def admit(self, job: Job) -> bool:
        if len(self.jobs) >= self.room:
            return False
        self.jobs.append((job, 0))
        self.seen.append(job)
        return True

    def drop(self, error: Exception) -> None:
        for job, _ in self.jobs:
            job.send(Failed(error))
        self.jobs = []

    def step(self) -> None:
        self.gate.wait()
        self.steps += 1
        left = []
        for job, done in self.jobs:
            if job.over():
                continue
            if job.work.prompt == "break":
                raise_fault()
            options = job.work.options
            shown = job.work.shown
            if done < len(shown):
                for image in range(options.kept):
                    job.send(Partial(image, done, colour(options.seed, image) // (2 + done)))
                left.append((job, done + 1))
            else:
                # the last candidate is the best
                order = list(range(options.candidates))[::-1][: options.kept]
                job.send(Finished([Drawn(colour(options.seed, one), one, one / 100) for one in order]))
        self.jobs = left


def raise_fault() -> None:
    raise RuntimeError("a fault that nobody foresaw, with /secret/path")
