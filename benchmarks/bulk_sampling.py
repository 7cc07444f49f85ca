"""Bulk sampling end to end, compared with its engine alone, and the memory of a long job.

    python benchmarks/bulk_sampling.py --model runs/demo --prompts 2000 --candidates 16

The job writes tars and scores as ``sample --tars`` does. The engine draws every ``--chunk`` of prompts a second time,
before or after the job in turn, and throws the results away. Both sides thus meet the same load of the machine.
Resident memory is read after every chunk.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from harness import cpu_model

from dalle_jax.commands.memory import keep_large_buffers
from dalle_jax.pipelines.bulk import run_job as jobs
from dalle_jax.pipelines.bulk.device_engine import DeviceEngine, DrawnPrompt
from dalle_jax.pipelines.bulk.job import BulkJob
from dalle_jax.pipelines.bulk.prompt_files import NumberedRequest, PromptFiles, Survey
from dalle_jax.pipelines.bulk.shard_writer import require_pyarrow
from dalle_jax.pipelines.load.model_fingerprints import model_fingerprints
from dalle_jax.pipelines.load.pipeline import load_pipeline
from dalle_jax.pipelines.request import RequestOptions
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.scenes.grammar import COLOURS, SHAPES
from dalle_jax.storage import place


def resident_megabytes() -> float:
    """Return the memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


class Stopwatch:
    """Wall and CPU seconds."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def start(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def stop(self) -> None:
        self.wall += time.monotonic() - self._wall
        self.cpu += time.process_time() - self._cpu


class MeasuredEngine(DeviceEngine):
    """An engine that draws each chunk of prompts twice: for the job, and alone."""

    def __init__(self, pipeline: TextToImage, survey: Survey, chunk: int) -> None:
        super().__init__(pipeline, survey)
        self.chunk, self.alone, self.job = chunk, Stopwatch(), Stopwatch()
        self.megabytes: list[tuple[int, float]] = []

    def draw(self, requests: Iterator[NumberedRequest]) -> Iterator[DrawnPrompt]:
        """Yield the results of the job, and draw each chunk alone before or after it."""
        done = number = 0
        while chunk := list(islice(requests, self.chunk)):
            if not done:
                list(super().draw(iter(chunk)))  # compiles
            if number % 2 == 0:
                self._alone(chunk)
            self.job.start()
            yield from super().draw(iter(chunk))
            self.job.stop()
            if number % 2 == 1:
                self._alone(chunk)
            done, number = done + len(chunk), number + 1
            self.megabytes.append((done, resident_megabytes()))

    def _alone(self, chunk: list[NumberedRequest]) -> None:
        self.alone.start()
        for _ in super().draw(iter(chunk)):
            pass
        self.alone.stop()


def prompts_file(folder: Path, count: int) -> Path:
    """Write a file of ``count`` different prompts of the demo's scenes."""
    colours, shapes = list(COLOURS), list(SHAPES)
    lines = []
    for number in range(count):
        first, rest = number % len(colours), number // len(colours)
        second, rest = rest % len(shapes), rest // len(shapes)
        third, rest = rest % len(colours), rest // len(colours)
        lines.append(f"a {colours[first]} {shapes[second]} above a {colours[third]} {shapes[rest % len(shapes)]}")
    path = folder / "prompts.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def main() -> None:
    """Run the job, and print both throughputs, their ratio and the memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="runs/demo")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--chunk", type=int, default=100)
    given = parser.parse_args()
    keep_large_buffers()
    require_pyarrow()
    with tempfile.TemporaryDirectory() as folder:
        options = RequestOptions(candidates=given.candidates, keep=min(4, given.candidates), guidance=2.0)
        files = PromptFiles([str(prompts_file(Path(folder), given.prompts))], options)
        survey = files.survey()
        job = BulkJob.of(survey, model_fingerprints(place(given.model)), {}, 250)
        pipeline = load_pipeline(place(given.model), batch=given.batch)
        assert isinstance(pipeline, TextToImage)
        engine = MeasuredEngine(pipeline, survey, given.chunk)
        jobs.engine_of = lambda *_: engine  # type: ignore[assignment]
        print(jobs.run_job(lambda: pipeline, files, survey, job, Path(folder) / "out"))
    images = survey.images
    result = {
        "cpu": cpu_model(),
        "prompts": given.prompts,
        "candidates": given.candidates,
        "images_per_second": {"job": images / engine.job.wall, "engine": images / engine.alone.wall},
        "images_per_cpu_second": {"job": images / engine.job.cpu, "engine": images / engine.alone.cpu},
        "ratio": engine.alone.wall / engine.job.wall,
        "cpu_ratio": engine.alone.cpu / engine.job.cpu,
        "resident_megabytes": {prompts: round(size, 1) for prompts, size in engine.megabytes},
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
