"""Works that are run on the runner of a served model, without the engine's thread."""

import numpy as np

from dalle_jax.images.editable import load_editable
from dalle_jax.pipelines.request import RequestOptions
from dalle_jax.serve.engine.pipeline_model import PipelineModel
from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.works import Drawn, Edit, Event, Failed, Finished, Generate, Partial, Vary, Work


class Asked:
    """A job of a model, and its events."""

    def __init__(self, model: PipelineModel, work: Work) -> None:
        model.check(work)
        self.events: list[Event] = []
        self.job = Job(model.name, work, self.events.append)

    @property
    def drawn(self) -> list[Drawn]:
        """The images, best first. Raise the error of a failed job."""
        end = self.events[-1]
        if isinstance(end, Failed):
            raise end.error
        assert isinstance(end, Finished)
        return end.images

    @property
    def images(self) -> dict[int, np.ndarray]:
        """The images by candidate."""
        return {one.candidate: one.pixels for one in self.drawn}

    @property
    def partial(self) -> list[Partial]:
        """The partial images."""
        return [one for one in self.events if isinstance(one, Partial)]


def run(model: PipelineModel, *works: Work) -> list[Asked]:
    """Let works arrive one after the other, as soon as there is room, and run until all are done."""
    asked = [Asked(model, one) for one in works]
    waiting = [one.job for one in asked]
    while waiting or model.runner.busy:
        if waiting and model.runner.admit(waiting[0]):
            waiting.pop(0)
        model.runner.step()
    return asked


def check_company(model: PipelineModel, *works: Work) -> list[Asked]:
    """Assert that the images of works are the same alone and together, to the last bit; return those of the company."""
    alone, together = [run(model, one)[0] for one in works], run(model, *works)
    for first, second in zip(alone, together, strict=True):
        assert first.images.keys() == second.images.keys()
        for number, pixels in first.images.items():
            np.testing.assert_array_equal(pixels, second.images[number])
    return together


def options(seed: int, candidates: int = 1, **changes) -> RequestOptions:
    """Return options that keep all candidates."""
    return RequestOptions(candidates=candidates, keep=candidates, seed=seed, **changes)


def generate(prompt: str, seed: int, candidates: int = 1, *, shown=(), **changes) -> Generate:
    """Return a generation."""
    return Generate(prompt=prompt, options=options(seed, candidates, **changes), shown=shown)


def hole(prompt: str, seed: int, side: int, candidates: int = 1, *, shown=(), **changes) -> Edit:
    """Return an edit that fills the middle of an image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    hidden = np.zeros((side, side), bool)
    hidden[side // 4 : side // 2, side // 4 : 3 * side // 4] = True
    own = options(seed, candidates, **changes)
    return Edit(images=(load_editable(pixels),), hidden=hidden, prompt=prompt, options=own, shown=shown)


def vary(seed: int, side: int, candidates: int = 1, *, prompt=None, shown=(), **changes) -> Vary:
    """Return a variation of an image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    own = options(seed, candidates, **changes)
    return Vary(image=load_editable(pixels), prompt=prompt, options=own, shown=shown)


def mix(prompt: str, seed: int, side: int, candidates: int = 1, *, count: int = 2, shown=(), **changes) -> Edit:
    """Return a change of ``count`` whole images of random pixels."""
    generator = np.random.default_rng(seed)
    pixels = [generator.integers(0, 256, (side, side, 3), np.uint8) for _ in range(count)]
    images, own = tuple(load_editable(one) for one in pixels), options(seed, candidates, **changes)
    return Edit(images=images, hidden=None, prompt=prompt, options=own, shown=shown)
