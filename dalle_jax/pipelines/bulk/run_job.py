"""A bulk job as one of several processes runs it: its shards, drawn and written one after the other."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType

from dalle_jax.parallel import hosts
from dalle_jax.pipelines.bulk.bulk_progress import BulkProgress, LatestGrid, duration, peak_flops
from dalle_jax.pipelines.bulk.device_engine import BulkEngine, DeviceEngine, DrawnPrompt
from dalle_jax.pipelines.bulk.job import BulkJob
from dalle_jax.pipelines.bulk.pipeline_engine import PipelineEngine
from dalle_jax.pipelines.bulk.prompt_files import NumberedRequest, PromptFiles, Survey
from dalle_jax.pipelines.bulk.shard_writer import ShardWriter
from dalle_jax.pipelines.bulk.shards import BulkFolder
from dalle_jax.pipelines.prompted_pipeline import DiffusionPipeline, check_diffusion_options
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.storage import Place


def run_job(
    load: Callable[[], TextToImage | DiffusionPipeline],
    files: PromptFiles,
    survey: Survey,
    job: BulkJob,
    out: Place,
    together: bool = False,
) -> str:
    """Run this process's part of a job in a locked folder, and return a line about what all processes did.

    ``load`` is called only if a shard is missing. If all processes draw ``together``, on one mesh, the first of them
    writes every shard; else each draws and writes shards of its own. All processes must call this at the same point.
    """
    process, _ = hosts.process_index_and_count()
    folder = BulkFolder(out, job, process)
    hosts.call_and_share_errors(lambda: None if process else folder.begin())
    hosts.call_and_share_errors(folder.compare)
    missing = missing_shards(folder)
    shards = missing if together else own_shards(missing)
    result = f"{out} has {survey.kept:,} images of {job.prompts:,} prompts in {job.shards} tars"
    there = f"{job.shards - len(missing)} of {job.shards} shards were there already"
    if not missing:
        return f"{result}; {there}"
    if hosts.is_first():
        images = f"{survey.images:,} images to sample, {survey.kept:,} to keep"
        print(f"{job.prompts:,} prompts, {images}; {there}", flush=True)
        if survey.ignored:
            print(f"columns that are not used: {', '.join(survey.ignored)}", flush=True)
    pipeline = hosts.call_and_share_errors(load)
    engine = hosts.call_and_share_errors(lambda: engine_of(pipeline, files, survey))
    if process and together:
        for _ in engine.draw(requests_of(files, job, shards)):  # the first process writes
            pass
        progress = BulkProgress(0, print)
    else:
        requests = requests_of(files, job, shards)
        progress = run_shards(engine, requests, folder, job, images_of(survey, files, job, shards), out)
    for line in truncation_lines(engine):
        print(line, file=sys.stderr)
    counts = [json.loads(one) for one in hosts.gather(json.dumps([progress.images, progress.seconds]).encode())]
    images, seconds = sum(one[0] for one in counts), max(one[1] for one in counts)
    return f"{result}; {there}, {images:,} images sampled in {duration(seconds)}, {images / seconds:,.3g} a second"


def engine_of(pipeline: TextToImage | DiffusionPipeline, files: PromptFiles, survey: Survey) -> BulkEngine:
    """Return the engine of a pipeline. Raise UserError that lists the rows that a diffusion model cannot sample."""
    if isinstance(pipeline, TextToImage):
        return DeviceEngine(pipeline, survey)
    files.survey(check_diffusion_options)
    return PipelineEngine(pipeline, pipeline.batch)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGTERM, so that the lock and temporary files are removed.

    In a run of several processes it replaces the handler of jax, which only notes the signal: only a shard is lost.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def truncation_lines(engine: BulkEngine) -> Iterator[str]:
    """Yield a warning for each text tokenizer that has truncated prompts."""
    for name, tokenizer in engine.tokenizers().items():
        if tokenizer.truncated_captions:
            yield (
                f"WARNING: {tokenizer.truncated_captions} prompts were truncated to the {tokenizer.length} tokens of "
                f"{name}"
            )


def missing_shards(folder: BulkFolder) -> list[int]:
    """Return the unfinished shards. The first process lists them for all, so that all have the same list."""
    process, _ = hosts.process_index_and_count()
    listed = hosts.call_and_share_errors(lambda: [] if process else folder.missing())
    found: list[int] = json.loads(hosts.gather(json.dumps(listed).encode())[0])
    return found


def own_shards(missing: list[int]) -> list[int]:
    """Return this process's share of the unfinished shards; every shard belongs to one process."""
    process, processes = hosts.process_index_and_count()
    return missing[process::processes]


def requests_of(files: PromptFiles, job: BulkJob, shards: list[int]) -> Iterator[NumberedRequest]:
    """Return the requests of these shards, in order."""
    own = set(shards)
    return files.requests(lambda prompt: job.shard_of(prompt) in own)


def images_of(survey: Survey, files: PromptFiles, job: BulkJob, shards: list[int]) -> int:
    """Return the number of images to sample for these shards."""
    if len(shards) == job.shards:
        return survey.images
    return sum(one.request.options.candidates for one in requests_of(files, job, shards))


def run_shards(
    engine: BulkEngine,
    requests: Iterator[NumberedRequest],
    folder: BulkFolder,
    job: BulkJob,
    images: int,
    out: Place,
) -> BulkProgress:
    """Draw and write the requests of whole shards, and return the counts.

    ``images`` is their number of images to sample. The first process also writes ``grid.png``.
    """
    process, peak = hosts.process_index_and_count()[0], peak_flops()
    flops = None if peak is None else engine.flops_per_image()
    progress = BulkProgress(images, lambda line: print(f"[sample {process}] {line}", flush=True), flops, peak)
    latest = None if process else LatestGrid(out)

    def see(one: DrawnPrompt) -> None:
        progress.add(one)
        if latest is not None:
            latest.add(one)

    try:
        write_shards(engine.draw(requests), folder, job, see)
    finally:
        folder.close()
    if latest is not None:
        latest.write()
    return progress


def write_shards(
    drawn: Iterator[DrawnPrompt], folder: BulkFolder, job: BulkJob, see: Callable[[DrawnPrompt], None]
) -> None:
    """Write the results of whole shards, in order. ``see`` is called with each result.

    A finished shard is moved into the output by a thread, at most one at a time, while the next one is drawn.
    """
    left = 0
    writer: ShardWriter | None = None
    moving: Future[None] | None = None
    with ThreadPoolExecutor(os.cpu_count() or 1) as encoders, ThreadPoolExecutor(1) as mover:
        for one in drawn:
            if writer is None:
                shard = job.shard_of(one.number)
                writer, left = ShardWriter(folder, shard, encoders), job.shard_size(shard)
            writer.add(one)
            see(one)
            left -= 1
            if not left:
                if moving is not None:
                    moving.result()
                moving, writer = mover.submit(writer.finish), None
        if moving is not None:
            moving.result()
