"""The root dataclass of each command: what a config file of that command fills in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from dalle_jax.config.errors import UserError
from dalle_jax.config.schema import PER_HOST
from dalle_jax.data.choices import ImageSourceConfig, SourceConfig
from dalle_jax.data.examples.caption_blend import Blend
from dalle_jax.data.examples.held_out import HeldOut
from dalle_jax.data.examples.images import Images
from dalle_jax.data.loader import Loader
from dalle_jax.data.mixture import Mixture
from dalle_jax.data.open_data import open_batches
from dalle_jax.evaluate.suites.evaluate_captioned import EvaluateCaptioned
from dalle_jax.evaluate.suites.evaluate_scenes import EvaluateScenes
from dalle_jax.parallel import hosts
from dalle_jax.parallel.mesh import Mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.storage import Place
from dalle_jax.tasks.align_text_images import AlignTextImages
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.tasks.generate_from_conditions import GenerateFromConditions
from dalle_jax.tasks.tokenize_images import TokenizeImages
from dalle_jax.tasks.tokenize_images_dvae import TokenizeImagesDvae
from dalle_jax.tasks.tokenize_images_gan import TokenizeImagesGan
from dalle_jax.train.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class CaptionedData:
    """Fields that ``Data`` and ``OwnData`` share: a source of captioned images and how its images are read.

    - ``evaluation``: the held-out examples, fixed for the whole run. With None nothing is evaluated.
    - ``images``: preprocessing of encoded images. Required for sources of files, None for all other sources.
    - ``workers``: threads that decode images. With 0 a single thread decodes them.
    """

    source: SourceConfig | Mixture
    evaluation: SourceConfig | HeldOut | None
    images: Images | None
    seed: int = 0
    workers: int = field(default=0, metadata=PER_HOST)


@dataclass(frozen=True, kw_only=True)
class Data(CaptionedData):
    """Training and evaluation data of one stage. ``batch_size`` counts the examples of all hosts together."""

    images: Images | None = None
    batch_size: int

    def open(self, folder: Place | None = None, quiet: bool = False) -> Loader:
        """Return a loader of batches. Print the number of records found, unless ``quiet``.

        ``folder`` is the run's folder. All hosts must call this together.
        """

        def say(line: str) -> None:
            if hosts.is_first() and not quiet:
                print(line, flush=True)

        return open_batches(
            self.source, self.evaluation, self.batch_size, self.seed, self.images, self.workers, folder, say
        )


@dataclass(frozen=True)
class TrainRun:
    """``train``: one stage."""

    task: (
        TokenizeImages
        | TokenizeImagesDvae
        | TokenizeImagesGan
        | GenerateCodes
        | GenerateFromConditions
        | AlignTextImages
    )
    data: Data
    trainer: Trainer
    mesh: Mesh = field(default_factory=Mesh)
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        wanted = self.task.batch_spec(1).get("pixels")
        if self.data.images is not None and wanted is not None and self.data.images.size != wanted.shape[1]:
            size = self.data.images.size
            raise ValueError(f"data.images.size: expected {wanted.shape[1]}, the task's images, got {size}")


@dataclass(frozen=True, kw_only=True)
class OwnData(CaptionedData):
    """The user's captioned images, shared by all stages of a pipeline. Each stage has its own batch size."""

    source: ImageSourceConfig | Mixture
    evaluation: ImageSourceConfig | HeldOut | None
    images: Images

    @property
    def held_out(self) -> HeldOut | None:
        """Return the rule that holds examples out of the source, or None if the evaluation has its own source."""
        return self.evaluation if isinstance(self.evaluation, HeldOut) else None

    def with_batch_size(self, batch_size: int) -> Data:
        """Return the data of one stage."""
        return Data(
            source=self.source,
            evaluation=self.evaluation,
            images=self.images,
            seed=self.seed,
            workers=self.workers,
            batch_size=batch_size,
        )


@dataclass(frozen=True)
class TextTokenizerRun:
    """``text-tokenizer``: a SentencePiece model from the captions of a source's first ``captions`` images.

    ``lower`` folds case. ``text_length`` and ``dropout`` are those of the model that will read it: how many captions it
    will cut is said when the tokenizer is trained. ``blend`` names the fields that captions are in where they are not
    only those that the images came with; all are trained on. Sources of a mixture share ``captions`` by weight.
    Captions of the images ``held_out`` are not read; say it as ``data.evaluation`` does. (A bad record takes a place
    in a count here, since nothing has been looked at; of a share both hold out the same.)
    """

    source: SourceConfig | Mixture
    vocabulary: int
    captions: int
    algorithm: Literal["unigram", "bpe"] = "unigram"
    lower: bool = True
    text_length: int | None = None
    dropout: float = 0.0
    blend: Blend | None = None
    held_out: HeldOut | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.dropout < 1.0 or (self.dropout and self.algorithm != "bpe"):
            raise ValueError(
                f"dropout: expected a share of a BPE's merges in [0, 1), got {self.dropout} of {self.algorithm}"
            )
        if self.captions < 1 or (self.text_length is not None and self.text_length < 1):
            raise ValueError(f"captions, text_length: expected 1 or more, got {self.captions}, {self.text_length}")


@dataclass(frozen=True)
class InspectRun:
    """``inspect``: what is in a source, and what ``images`` makes of it.

    Of a source of more than ``examine`` images so many are looked at, evenly spread; ``cells`` are on the sheet.
    """

    source: ImageSourceConfig | Mixture
    images: Images
    examine: int = 10_000
    cells: int = 60


@dataclass(frozen=True)
class EncodeRun:
    """``encode``: the codes that the tokenizer in the folder ``image_tokenizer`` gives for a source's images.

    Of each image ``crops`` are encoded, at ``image_size`` pixels a side: those that the source shows in its first
    epochs. A file holds the codes of ``shard_examples`` images; ``batch_size`` images are encoded at once on the
    devices of each process. ``source``, ``images`` and ``workers`` are as in ``Data``; with ``held_out`` the
    images are those that training is given beside it, or, with ``part`` "held_out", those that it is not.
    """

    source: ImageSourceConfig
    image_tokenizer: str
    image_size: int
    batch_size: int
    crops: int = 1
    shard_examples: int = 16_384
    images: Images | None = None
    workers: int = field(default=0, metadata=PER_HOST)
    held_out: HeldOut | None = None
    part: Literal["training", "held_out"] = "training"

    def __post_init__(self) -> None:
        if self.part == "held_out" and self.held_out is None:
            raise ValueError("part: expected held_out to say which images these are, got None")
        if self.images is not None and self.images.size != self.image_size:
            raise ValueError(f"images.size: expected image_size {self.image_size}, got {self.images.size}")


@dataclass(frozen=True)
class EvaluateRun:
    """``evaluate``: one or more named evaluations of a trained pipeline.

    ``EvaluateScenes`` renders its own scenes. ``EvaluateCaptioned`` measures on the held-out images of ``data``.
    """

    evaluations: Mapping[str, EvaluateScenes | EvaluateCaptioned]
    data: OwnData | None = None

    def __post_init__(self) -> None:
        if not self.evaluations:
            raise ValueError("evaluations: expected at least one, such as evaluations.scenes = @EvaluateScenes")
        captioned = [name for name, one in self.evaluations.items() if isinstance(one, EvaluateCaptioned)]
        if captioned and self.data is None:
            raise ValueError(
                f"data: expected @OwnData, whose held-out images evaluations.{captioned[0]} uses, got None"
            )
        if self.data is not None and not captioned:
            raise ValueError("data: expected None, because only EvaluateCaptioned uses data, got OwnData")

    def single(self) -> EvaluateScenes | EvaluateCaptioned:
        """Return the evaluation if there is only one. Raise ``UserError`` if there are more."""
        if len(self.evaluations) > 1:
            raise UserError(f"evaluations: expected one here, got {', '.join(self.evaluations)}")
        return next(iter(self.evaluations.values()))


DEMO_STAGES = ("text", "tokenizer", "clip", "transformer", "evaluation")
"""The stages of a demo, in the order in which they run."""


@dataclass(frozen=True)
class DemoRun:
    """``demo``: the config file of each stage by its name (``DEMO_STAGES``); each config is usable alone.

    A file that does not exist is looked for among the package's configs. ``data`` replaces the data of every stage.
    ``compared`` names a JSON file of measurements of several transformers, which the report shows.
    """

    title: str
    stages: Mapping[str, str]
    data: OwnData | None = None
    compared: str | None = None

    def __post_init__(self) -> None:
        missing = [name for name in DEMO_STAGES if name not in self.stages]
        unknown = [name for name in self.stages if name not in DEMO_STAGES]
        if missing or unknown:
            got = ", ".join(self.stages) or "none"
            raise ValueError(f"stages: expected a config file for each of {', '.join(DEMO_STAGES)}, got {got}")


Run: TypeAlias = TrainRun | TextTokenizerRun | InspectRun | EncodeRun | EvaluateRun | DemoRun
"""A config file says which it is by ``run = @TextTokenizerRun``; one that says nothing is a ``TrainRun``."""
