"""Evaluation suites on a loaded pipeline, for ``evaluate`` and in training."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple, cast

from dalle_jax import storage
from dalle_jax.commands.flags.image_set_flags import open_extractors
from dalle_jax.config.errors import UserError
from dalle_jax.data.examples.held_out_pairs import AnyHeldOut
from dalle_jax.data.labelled_images import read_labelled_images
from dalle_jax.data.loader import Loader
from dalle_jax.data.mixture import Mixture
from dalle_jax.evaluate.suites.any_suite import AnySuite
from dalle_jax.evaluate.suites.compare_images import AMONG
from dalle_jax.evaluate.suites.evaluate_captioned import CaptionedBatch, EvaluateCaptioned, evaluate_captioned
from dalle_jax.evaluate.suites.evaluate_icon_colours import EvaluateIconColours, Icon, evaluate_icon_colours
from dalle_jax.evaluate.suites.evaluate_images import EvaluateImages, SampledFindings, evaluate_images
from dalle_jax.evaluate.suites.evaluate_scenes import evaluate_scenes
from dalle_jax.evaluate.suites.evaluate_text import EvaluateText, evaluate_text
from dalle_jax.evaluate.suites.panels import SuiteFindings, scalars_of
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.bulk.device_engine import DeviceEngine
from dalle_jax.pipelines.bulk.pipeline_engine import PipelineEngine
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


def findings_of(
    pipeline: AnyPipeline, data: SuiteData, config: AnySuite, layout: Layout, say: Callable[[str], None]
) -> SuiteFindings:
    """Run a suite on a pipeline. Raise ``UserError`` if the pipeline or the data lack what it needs."""
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


def held_out_batches(data: Loader, side: int) -> Iterator[CaptionedBatch]:
    """Yield the held-out examples of the data. Raise ``UserError`` if there are none, or of another size."""
    if not data.held_out:
        raise UserError(
            f"data.evaluation: expected held-out images to measure on, got none among {data.examples:,} images; "
            "hold some out before training, for example with data.evaluation = @HeldOut and data.evaluation.count = 1"
        )
    for batch in cast("Iterable[CaptionedBatch]", data.evaluation_batches()):
        for image in batch["image"]:
            if image.shape[:2] != (side, side):
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
    if isinstance(pipeline, TextToImage):
        return evaluate_images(DeviceEngine(pipeline, config.survey()), batches, extractors, judge, config, say)
    if not isinstance(pipeline, DiffusionPipeline):
        raise UserError(f"evaluations: expected a model that is sampled in bulk for @EvaluateImages, got {pipeline}")
    return evaluate_images(PipelineEngine(pipeline, pipeline.batch), batches, extractors, judge, config, say)


class SuitesInTraining:
    """The suites of a training run: ``Suites`` of ``train/task.py``, on the pipeline of the run's folder."""

    def __init__(self, run: TrainRun, layout: Layout) -> None:
        self._run, self._layout = run, layout

    def __call__(self, folder: Place, log: Callable[[str], None]) -> dict[str, float]:
        """Load the newest weights and run each suite. Figures are named SUITE/FIGURE, as in ``evaluation.json``."""
        clip = None if self._run.suite_clip is None else storage.place(self._run.suite_clip)
        pipeline_of = cache(
            lambda batch: load_pipeline(folder, None, clip, batch=batch, layout=self._layout)
        )  # one for the suites of a batch size
        data = SuiteData(lambda batch_size: replace(self._run.data, batch_size=batch_size), quiet=True)
        figures: dict[str, float] = {}
        for name, config in self._run.suites.items():
            say = partial(_say_as, log, name)
            found = findings_of(pipeline_of(config.drawing.batch), data, config, self._layout, say)
            figures |= {f"{name}/{key}": value for key, value in scalars_of(found.panel()).items()}
        return figures


def _say_as(log: Callable[[str], None], name: str, line: str) -> None:
    log(f"{name}: {line}")


def suites_of(run: TrainRun, layout: Layout) -> SuitesInTraining | None:
    """Return the suites of a training run, or None if it has none."""
    return SuitesInTraining(run, layout) if run.suites else None
