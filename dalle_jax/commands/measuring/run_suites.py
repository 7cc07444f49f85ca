"""Evaluation suites on a loaded pipeline, for ``evaluate`` and in training."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple, cast

import numpy as np

from dalle_jax import storage
from dalle_jax.commands.flags.image_set_flags import open_extractors
from dalle_jax.config.errors import UserError
from dalle_jax.data.examples.held_out_pairs import AnyHeldOut
from dalle_jax.data.labelled_images import read_labelled_images
from dalle_jax.data.loader import Loader
from dalle_jax.data.mixture import Mixture
from dalle_jax.evaluate.features.image_distance import open_lpips
from dalle_jax.evaluate.suites.any_suite import AnySuite
from dalle_jax.evaluate.suites.compare_images import AMONG
from dalle_jax.evaluate.suites.evaluate_captioned import CaptionedBatch, EvaluateCaptioned, evaluate_captioned
from dalle_jax.evaluate.suites.evaluate_icon_colours import EvaluateIconColours, Icon, evaluate_icon_colours
from dalle_jax.evaluate.suites.evaluate_images import EvaluateImages, SampledFindings, evaluate_images
from dalle_jax.evaluate.suites.evaluate_scenes import evaluate_scenes
from dalle_jax.evaluate.suites.evaluate_text import EvaluateText, evaluate_text
from dalle_jax.evaluate.suites.image_sets import NumberedImages
from dalle_jax.evaluate.suites.panels import SuiteFindings, scalars_of
from dalle_jax.evaluate.suites.sets.evaluate_reconstruction import EvaluateReconstruction, evaluate_reconstruction
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.bulk.device_engine import DeviceEngine
from dalle_jax.pipelines.bulk.pipeline_engine import PipelineEngine
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.load.models import load_tokenizer_in
from dalle_jax.pipelines.load.pipeline import AnyPipeline, load_pipeline, load_ranker
from dalle_jax.pipelines.prompted_pipeline import DiffusionPipeline
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.pipelines.unclip import Unclip
from dalle_jax.runs import Data, TrainRun
from dalle_jax.storage import Place


class SuiteData(NamedTuple):
    """The data of a run for its suites, by their batch size. ``quiet`` hides the number of records found."""

    of_size: Callable[[int], Data]
    quiet: bool = False

    def open(self, batch_size: int) -> Loader:
        """Return a loader of batches."""
        return self.of_size(batch_size).open(quiet=self.quiet)


class SuiteModel(NamedTuple):
    """A model for its suites: its pipeline for a number of images at once, and its image tokenizer alone."""

    pipeline_of: Callable[[int], AnyPipeline]
    tokenizer: Callable[[], ImageTokenizer]


def findings_of(
    model: SuiteModel, data: SuiteData, config: AnySuite, layout: Layout, say: Callable[[str], None]
) -> SuiteFindings:
    """Run a suite on a model. Raise ``UserError`` if the model or the data lack what it needs."""
    if isinstance(config, EvaluateReconstruction):
        return _reconstructed(model, held_out_batches(data.open(config.batch), None), config, layout, say)
    pipeline = model.pipeline_of(config.drawing.batch)
    if isinstance(config, EvaluateText):
        return evaluate_text(pipeline, config, say)
    if isinstance(config, EvaluateImages):
        return _sampled(pipeline, held_out_batches(data.open(AMONG), pipeline.side), config, layout, say)
    clip = pipeline.require_ranker()
    if isinstance(config, EvaluateIconColours):
        return evaluate_icon_colours(pipeline, config, icons_of(data.of_size(1), config), say)
    if isinstance(config, EvaluateCaptioned):
        if not isinstance(pipeline, TextToImage):
            raise UserError(
                "evaluations: expected @EvaluateScenes or @EvaluateImages for a diffusion model, got "
                "@EvaluateCaptioned, which measures a transformer's likelihood"
            )
        batches = held_out_batches(data.open(config.among), pipeline.side)
        return evaluate_captioned(pipeline, pipeline.codec, clip, pipeline.likelihood, config, batches, say)
    codec = pipeline.codec if isinstance(pipeline, TextToImage | Unclip) else None
    return evaluate_scenes(pipeline, codec, clip, config, say)


def icons_of(data: Data, config: EvaluateIconColours) -> dict[str, list[Icon]]:
    """Return icons of the data of a run: "seen" ones, of training records, and "held_out" ones.

    Raise ``UserError`` for data of which nothing is held out by a rule, for a mixture, and for data without images.
    """
    if isinstance(data.source, Mixture) or not isinstance(data.evaluation, AnyHeldOut) or data.images is None:
        raise UserError(
            "data: expected one source of images with @HeldOutPairs or @HeldOut as data.evaluation for "
            f"@EvaluateIconColours, got {type(data.source).__name__} and {type(data.evaluation).__name__}"
        )
    both = read_labelled_images(data.source, data.images, data.evaluation, config.is_icon, config.captions)
    return {
        split: [Icon(one.image, one.caption, config.names(one.metadata)) for one in images]
        for split, images in zip(("seen", "held_out"), both, strict=True)
    }


def _reconstructed(
    model: SuiteModel,
    batches: Iterable[CaptionedBatch],
    config: EvaluateReconstruction,
    layout: Layout,
    say: Callable[[str], None],
) -> SuiteFindings:
    codec = ImageCodec(model.tokenizer(), config.batch, layout)
    extractors = open_extractors(list(config.features), None, layout) if config.distances else {}
    lpips = None if config.lpips is None else open_lpips(storage.reachable(config.lpips), layout)
    title, images = "Reconstructions of held-out images", numbered(batches, config.images)
    return evaluate_reconstruction(title, images, codec, extractors, lpips, config, say)


def numbered(batches: Iterable[CaptionedBatch], count: int | None) -> Iterator[NumberedImages]:
    """Yield the first ``count`` images, or all, with their numbers."""
    done = 0
    for batch in batches:
        some = len(batch["image"]) if count is None else min(len(batch["image"]), count - done)
        if not some:
            return
        captions = tuple((one,) for one in batch["caption"][:some])
        yield NumberedImages(np.arange(done, done + some), np.stack(batch["image"][:some]), captions)
        done += some


def held_out_batches(data: Loader, side: int | None) -> Iterator[CaptionedBatch]:
    """Yield the held-out examples of the data. Raise ``UserError`` if there are none, or not of ``side`` pixels."""
    if not data.held_out:
        raise UserError(
            f"data.evaluation: expected held-out images to measure on, got none among {data.examples:,} images; "
            "hold some out before training, for example with data.evaluation = @HeldOut and data.evaluation.count = 1"
        )
    for batch in cast("Iterable[CaptionedBatch]", data.evaluation_batches()):
        for image in batch["image"]:
            if side is not None and image.shape[:2] != (side, side):
                raise UserError(f"held-out images: expected {side} px a side, the model's size, got {image.shape[:2]}")
        yield batch


def _sampled(
    pipeline: AnyPipeline,
    batches: Iterable[CaptionedBatch],
    config: EvaluateImages,
    layout: Layout,
    say: Callable[[str], None],
) -> SampledFindings:
    extractors = open_extractors(list(config.features), None, layout)
    judge = None if config.judge_clip is None else load_ranker(storage.place(config.judge_clip), AMONG, layout)
    lpips = None if config.lpips is None else open_lpips(storage.reachable(config.lpips), layout)
    if isinstance(pipeline, TextToImage):
        return evaluate_images(DeviceEngine(pipeline, config.survey()), batches, extractors, judge, config, say, lpips)
    if not isinstance(pipeline, DiffusionPipeline):
        raise UserError(f"evaluations: expected a model that is sampled in bulk for @EvaluateImages, got {pipeline}")
    return evaluate_images(PipelineEngine(pipeline, pipeline.batch), batches, extractors, judge, config, say, lpips)


class SuitesInTraining:
    """The suites of a training run: ``Suites`` of ``train/task.py``, on the pipeline of the run's folder."""

    def __init__(self, run: TrainRun, layout: Layout) -> None:
        self._run, self._layout = run, layout

    def __call__(self, folder: Place, log: Callable[[str], None]) -> dict[str, float]:
        """Load the newest weights and run each suite. Figures are named SUITE/FIGURE, as in ``evaluation.json``."""
        clip = None if self._run.suite_clip is None else storage.place(self._run.suite_clip)
        model = SuiteModel(
            cache(lambda batch: load_pipeline(folder, None, clip, batch=batch, layout=self._layout)),  # once per size
            lambda: load_tokenizer_in(folder, self._layout),
        )
        data = SuiteData(lambda batch_size: replace(self._run.data, batch_size=batch_size), quiet=True)
        figures: dict[str, float] = {}
        for name, config in self._run.suites.items():
            say = partial(_say_as, log, name)
            found = findings_of(model, data, config, self._layout, say)
            figures |= {f"{name}/{key}": value for key, value in scalars_of(found.panel()).items()}
        return figures


def _say_as(log: Callable[[str], None], name: str, line: str) -> None:
    log(f"{name}: {line}")


def suites_of(run: TrainRun, layout: Layout) -> SuitesInTraining | None:
    """Return the suites of a training run, or None if it has none."""
    return SuitesInTraining(run, layout) if run.suites else None
