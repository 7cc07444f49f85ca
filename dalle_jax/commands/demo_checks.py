"""Checks that a demo's stages fit each other and the data, made before the first stage is trained.

Sizes that the data cannot fill are lowered, with a message for each. Every remaining problem is one line, which names
the field to set: ``--set stages.NAME.PATH=VALUE``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

import jax
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.suites.evaluate_captioned import EvaluateCaptioned, fitted
from dalle_jax.parallel.axes import BATCH, VOCAB
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import make_mesh
from dalle_jax.runs import EvaluateRun, TrainRun
from dalle_jax.tasks.align_text_images import AlignTextImages
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.tasks.tokenizers.tokenize_images import TokenizeImages
from dalle_jax.tasks.tokenizers.tokenize_images_dvae import TokenizeImagesDvae
from dalle_jax.tasks.tokenizers.tokenize_images_gan import TokenizeImagesGan
from dalle_jax.text.sentencepiece import SentencePieceModel

Tokenize: TypeAlias = TokenizeImages | TokenizeImagesDvae | TokenizeImagesGan
"""Tasks that train an image tokenizer."""


class Counts(NamedTuple):
    """Number of training examples, and number of held-out examples."""

    training: int
    held_out: int


class CodeShape(NamedTuple):
    """Shape of an image tokenizer's codes, known from its config alone."""

    downsample: int
    codebook_size: int
    width: int


@dataclass
class DemoChecks:
    """The stages and the evaluation of a demo, fitted to the data.

    ``messages`` describe the sizes that were changed, and ``problems`` the errors.
    """

    stages: dict[str, TrainRun]
    evaluation: EvaluateRun
    messages: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def fit_vocabularies(self, pieces: int, wanted: int) -> None:
        """Fit the vocabulary sizes of the stages to the text tokenizer, which has ``pieces`` pieces.

        The tokenizer may have fewer pieces than ``wanted``, the size in its config. A stage with the vocabulary size
        ``wanted`` then gets ``pieces``. Add a problem for each stage with a different size, and for each size that the
        devices cannot share equally.
        """
        for name, run in self.stages.items():
            task = run.task
            if not isinstance(task, AlignTextImages | GenerateCodes):
                continue
            if not isinstance(task.captions.vocabulary, SentencePieceModel):
                continue
            path, size = _vocabulary(task)
            where = f"stages.{name}.{path}"
            if pieces < size == wanted:
                self.stages[name] = replace(run, task=_with_vocabulary(task, pieces))
                self.messages.append(f"{where}: {size} lowered to {pieces}, because the captions have no more pieces")
            elif size != pieces:
                self.problems.append(
                    f"{where}: expected {pieces}, the number of pieces of the text tokenizer, got {size}"
                )
            layout = self._layout(name)
            if layout is not None and not layout.divides(pieces, VOCAB):
                parts = layout.parts(VOCAB)
                self.problems.append(
                    f"{where}: expected a multiple of {parts}, the number of devices that share it, "
                    f"got {pieces} pieces; "
                    f"train fewer with stages.text.vocabulary={pieces // parts * parts}"
                )

    def check_codes(self) -> None:
        """Add a problem for each field of the transformer or CLIP that does not fit the image tokenizer."""
        tokenizer, transformer = self.stages["tokenizer"].task, self.stages["transformer"].task
        clip = self.stages["clip"].task
        if not isinstance(tokenizer, Tokenize):
            self._wrong_task("tokenizer", "an image tokenizer")
        if not isinstance(clip, AlignTextImages):
            self._wrong_task("clip", "AlignTextImages")
        if not isinstance(transformer, GenerateCodes):
            self._wrong_task("transformer", "GenerateCodes")
        if not isinstance(tokenizer, Tokenize):
            return
        codes = codes_of(tokenizer)
        if isinstance(clip, AlignTextImages):
            self._expect_multiple("stages.clip.task.model.image_size", clip.model.image_size, codes)
        if isinstance(transformer, GenerateCodes):
            self._check_transformer(transformer, codes)

    def check_batches(self, counts: Mapping[str, Counts]) -> None:
        """Add a problem for each batch size that the devices cannot share equally.

        Add a message for each batch that is larger than the data.
        """
        for name, run in self.stages.items():
            layout = self._layout(name)
            size, where = run.data.batch_size, f"stages.{name}.data.batch_size"
            devices, accumulate = 1 if layout is None else layout.parts(BATCH), run.trainer.accumulate
            parts = devices * accumulate
            if size < 1 or size % parts:
                near = sorted({max(size // parts, 1) * parts, (size // parts + 1) * parts})
                self.problems.append(
                    f"{where}: expected a multiple of {parts} ({devices} devices, accumulate {accumulate}), got "
                    f"{size}; the nearest are {' and '.join(map(str, near))}"
                )
            if name in counts and size > counts[name].training:
                self.messages.append(
                    f"{where}: {size} with {counts[name].training:,} images for training, so images occur several "
                    "times in a batch"
                )

    def fit_evaluation(self, counts: Counts) -> None:
        """Lower the evaluation's sample sizes to the number of held-out images, with a message for each."""
        evaluation, name = self.evaluation.single(), next(iter(self.evaluation.evaluations))
        if not isinstance(evaluation, EvaluateCaptioned):
            return
        where = f"stages.evaluation.evaluations.{name}"
        if counts.held_out:
            lowered, lines = fitted(evaluation, counts.held_out)
            self.evaluation = replace(self.evaluation, evaluations={name: lowered})
            self.messages += [f"{where}.{line}" for line in lines]
            among = evaluation.among
            if among > counts.held_out:
                self.messages.append(
                    f"{where}.among: {among} lowered to {counts.held_out}, the number of held-out images"
                )
        else:
            self.messages.append(
                "data.evaluation: no images are held out, so nothing is measured; the report shows captions of the "
                "training set"
            )

    def _check_transformer(self, task: GenerateCodes, codes: CodeShape) -> None:
        model, where = task.model, "stages.transformer.task"
        if model.codebook_size != codes.codebook_size:
            self.problems.append(
                f"{where}.model.codebook_size: expected {codes.codebook_size}, the codes of the image tokenizer, got "
                f"{model.codebook_size}"
            )
        if model.code_width not in (0, codes.width):
            self.problems.append(
                f"{where}.model.code_width: expected {codes.width}, the width of the image tokenizer's code vectors, "
                f"or 0 to ignore them, got {model.code_width}"
            )
        if task.image_size is None or not self._expect_multiple(f"{where}.image_size", task.image_size, codes):
            return
        side = task.image_size // codes.downsample
        if tuple(model.grid) != (side, side):
            self.problems.append(
                f"{where}.model.grid: expected {(side, side)}, the grid of codes for {task.image_size} px, got "
                f"{tuple(model.grid)}"
            )

    def _expect_multiple(self, where: str, size: int, codes: CodeShape) -> bool:
        fine = size % codes.downsample == 0
        if not fine:
            self.problems.append(
                f"{where}: expected a multiple of {codes.downsample} px, the side of one code of the image tokenizer, "
                f"got {size}"
            )
        return fine

    def _wrong_task(self, name: str, expected: str) -> None:
        got = type(self.stages[name].task).__name__
        self.problems.append(f"stages.{name}.task: expected {expected}, got {got}")

    def _layout(self, name: str) -> Layout | None:
        """Return a stage's layout on the devices. If its mesh cannot be made, add a problem and return None."""
        run = self.stages[name]
        try:
            return Layout(make_mesh(run.mesh), run.rules)
        except UserError as error:
            problem = f"stages.{name}: {error}"
            if problem not in self.problems:
                self.problems.append(problem)
            return None


def codes_of(task: Tokenize) -> CodeShape:
    """Return the shape of an untrained tokenizer's codes, without allocating its arrays."""
    found: list[tuple[int, int]] = []

    def vectors() -> jax.Array:
        tokenizer = task.model.build(nnx.Rngs(0))
        found.append((tokenizer.downsample, tokenizer.codebook_size))
        return tokenizer.code_vectors

    width = jax.eval_shape(vectors).shape[1]
    return CodeShape(*found[0], width)


def _vocabulary(task: AlignTextImages | GenerateCodes) -> tuple[str, int]:
    """Return the path of the vocabulary-size field, and its value."""
    if isinstance(task, AlignTextImages):
        return "task.model.vocab_size", task.model.vocab_size
    return "task.model.text_vocab", task.model.text_vocab


def _with_vocabulary(task: AlignTextImages | GenerateCodes, pieces: int) -> AlignTextImages | GenerateCodes:
    if isinstance(task, AlignTextImages):
        return replace(task, model=replace(task.model, vocab_size=pieces))
    return replace(task, model=replace(task.model, text_vocab=pieces))
