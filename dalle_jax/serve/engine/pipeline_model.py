"""A loaded pipeline as a served model: its abilities, its checks, and the plans of its works."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.images.editable import EditableImage, load_editable
from dalle_jax.pipelines.edits.embedding_editor import EmbeddingEditor
from dalle_jax.pipelines.edits.embedding_edits import EmbeddingEdit, EmbeddingEditKeywords, require_editor
from dalle_jax.pipelines.edits.filler import HoleFiller
from dalle_jax.pipelines.edits.holes import Hole, HoleWork
from dalle_jax.pipelines.edits.mix import mixed
from dalle_jax.pipelines.edits.painting import CONTEXT
from dalle_jax.pipelines.edits.vary import variations
from dalle_jax.pipelines.edits.windows import windows_about
from dalle_jax.pipelines.imported.glide import GlidePipeline
from dalle_jax.pipelines.imported.karlo import Karlo
from dalle_jax.pipelines.load.pipeline import AnyPipeline
from dalle_jax.pipelines.pixel_unclip import PixelUnclip
from dalle_jax.pipelines.prompted_pipeline import check_diffusion_options
from dalle_jax.pipelines.prompts import ClassPrompts, FeaturePrompts, Prompt, PromptReader, TextPrompts, prompt_warnings
from dalle_jax.pipelines.request import Request, RequestKeywords, RequestOptions
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.pipelines.unclip import Unclip
from dalle_jax.serve.engine.code_slots import TransformerSlots, UnclipSlots
from dalle_jax.serve.engine.drawing_plans import DrawingPlan, HolePlan, WholePlan
from dalle_jax.serve.engine.pixel_slots import PixelSlots
from dalle_jax.serve.engine.served_model import Abilities, Runner, Tokens
from dalle_jax.serve.engine.slot_runner import SlotRunner
from dalle_jax.serve.engine.works import Edit, Generate, Vary, Work

STEPS = (2, 4, 8, 16, 32, 64)
"""The numbers of steps that a request may choose; a program is compiled for each, so that they are few."""
MOST_WINDOWS = 16
"""Largest number of windows of an edit, each of which is a call of the model."""
MOST_EDITED_PIXELS = 64_000_000
"""Largest number of pixels of all candidates of an edit."""
GIVEN_ROWS = 0.5
"""The share of an image that a transformer's variation keeps, from the top."""
KINDS: dict[type, str] = {
    TextToImage: "transformer of codes",
    Unclip: "unCLIP of codes",
    PixelUnclip: "unCLIP of pixels",
    Karlo: "Karlo",
    GlidePipeline: "GLIDE",
}


class PipelineModel:
    """A pipeline by the name that requests give. Its images share a running batch of the pipeline's ``batch`` slots."""

    def __init__(self, name: str, pipeline: AnyPipeline, window: int = 1, lanes: int = 1) -> None:
        """Serve a pipeline; ``window`` is the number of codes of an image that a pass of a transformer computes.

        The slots of a transformer are divided into ``lanes``, which advance beside each other
        (serve/engine/slot_runner.py).
        """
        self.name, self.pipeline = name, pipeline
        if isinstance(_reader(pipeline), FeaturePrompts):
            raise UserError(f"--model {name}: expected a model of texts or of classes, got one of caption features")
        self.abilities = abilities_of(pipeline)
        self._slots = slots_of(pipeline, self.plan, window, lanes)
        self.runner: Runner = self._slots

    def options(self, given: RequestKeywords) -> RequestOptions:
        """Return the options of a request, with the model's defaults."""
        return self.pipeline.options(**given)

    def check(self, work: Work) -> None:
        """Raise UserError for a work that this pipeline cannot do."""
        if isinstance(work, Generate):
            self._check_steps(work.steps)
            request = self.request(work)
            if not isinstance(self.pipeline, TextToImage):
                check_diffusion_options(request)
        elif isinstance(work, Edit):
            self._check_steps(work.steps)
            self._check_edit(work)
        else:
            self._check_vary(work)

    def tokens(self, work: Work) -> Tokens:
        """Count the tokens of a work: codes, and those of the text that the model reads."""
        pipeline = self.pipeline
        codes = pipeline.grid[0] * pipeline.grid[1] if isinstance(pipeline, TextToImage | Unclip) else 0
        reader, images = _reader(pipeline), {Generate: 0, Edit: 1, Vary: 1}[type(work)]
        if isinstance(work, Edit):
            images = len(work.images)
        prompt = None if not work.prompt else self.prompt(work.prompt)
        text = 0 if prompt is None else min(reader.length, reader.lengths([prompt])[0])
        return Tokens(text, codes * images, codes * work.options.candidates)

    def warnings(self, work: Work) -> list[str]:
        """Warn of a prompt that is truncated, or of which no letter is known."""
        if not work.prompt:
            return []
        return list(prompt_warnings(_reader(self.pipeline), self.name, [self.prompt(work.prompt)]))

    def warm(self) -> None:
        """Compile the programs of the slots, and those of an edit and of a variation, where the model has them."""
        prompt, options = self.any_prompt(), self.pipeline.options(candidates=1, keep=1)
        side, shown = self.abilities.side, (0.5,)
        image, hidden = load_editable(np.full((side, side, 3), 128, np.uint8)), np.zeros((side, side), bool)
        hidden[side // 4 : side // 2, side // 4 : side // 2] = True
        works: list[Work] = [Generate(prompt=prompt, options=options, shown=shown)]
        if isinstance(self.pipeline, TextToImage):
            negative = prompt if options.guided else None
            works.append(Generate(prompt=prompt, options=options, negative_prompt=negative))
        if self.abilities.inpaint:
            works.append(Edit(images=(image,), hidden=hidden, prompt=prompt, options=options, shown=shown))
        if self.abilities.vary:
            works.append(Vary(image=image, prompt=prompt, options=options, shown=shown))
        self._slots.warm([*works, works[0]])

    def any_prompt(self) -> str:
        """Return a prompt that the model takes."""
        return "0" if isinstance(_reader(self.pipeline), ClassPrompts) else "a red circle"

    def prompt(self, text: str) -> Prompt:
        """Return the prompt as the model takes it."""
        reader = _reader(self.pipeline)
        if not isinstance(reader, ClassPrompts):
            return text
        if not text.strip().isdecimal() or len(text) > 9 or int(text) >= reader.condition.classes:
            raise UserError(
                f"prompt: expected the number of a class below {reader.condition.classes}, which this model draws, got "
                f"{text!r:.40}"
            )
        return int(text)

    def request(self, work: Generate) -> Request:
        """Return the pipeline's request. Raise UserError for values that it refuses."""
        negative = None if work.negative_prompt is None else self.prompt(work.negative_prompt)
        prompt = self.prompt(work.prompt)
        caption = None if isinstance(prompt, str) else work.prompt
        return Request(prompt, work.options, caption=caption, negative_prompt=negative)

    def plan(self, work: Work) -> DrawingPlan:
        """Plan the images of a work. Edits first embed their images, and invert one that is varied."""
        if isinstance(work, Generate):
            request = self.request(work)
            return WholePlan(request, work.steps, text=request.text)
        return self._planned_edit(work) if isinstance(work, Edit) else self._planned_variation(work)

    def _planned_edit(self, work: Edit) -> DrawingPlan:
        pipeline, prompt = _with_steps(self.pipeline, work.steps), work.prompt
        if work.hidden is None:
            editor = require_editor(pipeline, "edit")
            chosen = EmbeddingEdit.of(editor, _edit_keywords(work))
            vectors = mixed(editor, [one.pixels for one in work.images], prompt, work.strength, chosen)
            return WholePlan(_alone(chosen), work.steps, text=prompt, vectors=vectors, eta=1.0)
        source = work.images[0].pixels
        windows = windows_about(work.hidden, CONTEXT, pipeline.side // 2)
        hole = Hole(source, work.hidden, windows, prompt, work.options)
        return HolePlan(HoleWork.of(hole), pipeline.side, work.steps, prompt)

    def _planned_variation(self, work: Vary) -> DrawingPlan:
        pipeline = self.pipeline
        if isinstance(pipeline, EmbeddingEditor):
            chosen = EmbeddingEdit.of(pipeline, _edit_keywords(work))
            vectors = variations(pipeline, work.image.pixels, work.prompt, work.strength, 1.0, chosen)
            return WholePlan(_alone(chosen), text=work.prompt, vectors=vectors, eta=1.0)
        request = Request(self.prompt(work.prompt or ""), work.options)
        return WholePlan(request, text=request.text, top=pipeline.given_top(work.image.pixels, GIVEN_ROWS))

    def _check_steps(self, steps: int | None) -> None:
        if steps is not None and steps not in self.abilities.steps:
            allowed = f"one of {', '.join(map(str, self.abilities.steps))}" if self.abilities.steps else "none"
            raise UserError(f"steps: expected {allowed} for the model {self.name}, got {steps}")

    def _check_edit(self, work: Edit) -> None:
        if work.hidden is None:
            if not self.abilities.mix:
                raise UserError(
                    f"mask: expected one for the model {self.name}, which changes no whole images, got none"
                )
            return
        if not self.abilities.inpaint:
            raise UserError(f"mask: expected none for the model {self.name}, which fills no holes, got one")
        if len(work.images) > 1:
            raise UserError(f"image: expected one image with a mask, got {len(work.images)}")
        if not isinstance(self.pipeline, TextToImage):
            check_diffusion_options(Request(work.prompt, work.options))
        _check_size(work.images[0], work.options)
        assert isinstance(self.pipeline, HoleFiller)
        count = len(windows_about(work.hidden, CONTEXT, self.pipeline.side // 2))
        if count > MOST_WINDOWS:
            raise UserError(
                f"mask: expected a hole of at most {MOST_WINDOWS} windows, got {count}; a window is a square"
            )

    def _check_vary(self, work: Vary) -> None:
        if not self.abilities.vary:
            raise UserError(f"model: expected one that varies images, got {self.name}")
        if not isinstance(self.pipeline, EmbeddingEditor) and work.strength is not None:
            raise UserError(f"strength: expected none for the model {self.name}, got {work.strength}")


def abilities_of(pipeline: AnyPipeline) -> Abilities:
    """Return what a pipeline can do."""
    transformer = isinstance(pipeline, TextToImage)
    classes = isinstance(_reader(pipeline), ClassPrompts)
    own = ("temperature", "top_k", "top_p", "guidance_end", "negative_prompt") if transformer else ()
    vectors = isinstance(pipeline, EmbeddingEditor) and (not isinstance(pipeline, Karlo) or pipeline.embeds_images)
    fills = isinstance(pipeline, HoleFiller) and (
        not isinstance(pipeline, PixelUnclip | GlidePipeline) or pipeline.inpaints
    )
    return Abilities(
        kind=KINDS[type(pipeline)],
        side=pipeline.side,
        inpaint=fills and not classes,
        vary=(transformer and not classes) or vectors,
        mix=vectors,
        ranks=pipeline.ranker is not None,
        options=("seed", "candidates", "guidance", *own),
        partials=True,
        steps=STEPS if isinstance(pipeline, Unclip | PixelUnclip) else (),
    )


def _reader(pipeline: AnyPipeline) -> PromptReader:
    """Return the reader of the texts that decide what is drawn."""
    if isinstance(pipeline, Unclip | PixelUnclip) and pipeline.sees == "embedding":
        return TextPrompts(pipeline.embedder.text)
    return pipeline.prompts


def _with_steps(pipeline: AnyPipeline, steps: int | None) -> AnyPipeline:
    """Return the pipeline with a number of steps of its decoder; it shares networks and compiled programs."""
    if steps is None or not isinstance(pipeline, Unclip | PixelUnclip):
        return pipeline
    return pipeline.with_steps(steps)


def _check_size(image: EditableImage, options: RequestOptions) -> None:
    width, height = image.size
    if width * height * options.candidates > MOST_EDITED_PIXELS:
        raise UserError(
            f"candidates: expected at most {max(1, MOST_EDITED_PIXELS // (width * height))} of an image of {width} x "
            f"{height} px, got {options.candidates}"
        )


def _edit_keywords(work: Edit | Vary) -> EmbeddingEditKeywords:
    options = work.options
    return {
        "candidates": options.candidates, "keep": options.keep, "seed": options.seed, "guidance": options.guidance,
    }  # fmt: skip


def _alone(chosen: EmbeddingEdit) -> Request:
    """Return the request of vectors that are decoded without a prompt."""
    options = RequestOptions(candidates=chosen.candidates, keep=chosen.keep, seed=chosen.seed, guidance=chosen.guidance)
    return Request("", options)


def slots_of(pipeline: AnyPipeline, plan: Callable[[Work], DrawingPlan], window: int, lanes: int) -> SlotRunner[Any]:
    """Return the slots of a pipeline: ``batch`` of them, those of a transformer in ``lanes``."""
    if isinstance(pipeline, TextToImage):
        return SlotRunner(TransformerSlots(pipeline, pipeline.batch // lanes, window), plan, lanes)
    if isinstance(pipeline, Unclip):
        return SlotRunner(UnclipSlots(pipeline, pipeline.batch), plan)
    return SlotRunner(PixelSlots(pipeline, pipeline.batch), plan)
