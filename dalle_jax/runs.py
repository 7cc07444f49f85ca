"""Root dataclasses of the configs. A config file is read as one of them, which belongs to one command."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Literal, TypeAlias, TypeVar

from dalle_jax.config.bind import load
from dalle_jax.config.errors import UserError
from dalle_jax.config.run_kinds import RunKinds
from dalle_jax.config.schema import PER_HOST
from dalle_jax.data.choices import ImageSourceConfig, SourceConfig
from dalle_jax.data.examples.caption_blend import Blend
from dalle_jax.data.examples.held_out_pairs import AnyHeldOut
from dalle_jax.data.examples.images import Images
from dalle_jax.data.loader import Loader
from dalle_jax.data.mixture import Mixture
from dalle_jax.data.open_data import open_batches
from dalle_jax.data.sources.precomputed import ClipEmbeddings, Codes
from dalle_jax.evaluate.suites.any_suite import AnySuite, check_in_training, on_data
from dalle_jax.evaluate.suites.evaluate_captioned import EvaluateCaptioned
from dalle_jax.evaluate.suites.evaluate_edits import EvaluateEdits
from dalle_jax.evaluate.suites.evaluate_inpainting import EvaluateInpainting
from dalle_jax.evaluate.suites.evaluate_scenes import EvaluateScenes
from dalle_jax.parallel import hosts
from dalle_jax.parallel.mesh import Mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.rewards.ranked_candidates import RankedCandidates
from dalle_jax.storage import Place
from dalle_jax.tasks.align_readable_images import AlignReadableImages
from dalle_jax.tasks.align_text_images import AlignTextImages
from dalle_jax.tasks.denoise_codes import DenoiseCodes
from dalle_jax.tasks.denoise_images import DenoiseImages
from dalle_jax.tasks.forecast_codes import ForecastCodes
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.tasks.generate_from_conditions import GenerateFromConditions
from dalle_jax.tasks.predict_embeddings import PredictEmbeddings
from dalle_jax.tasks.reinforcement.any_fine_tuning import AnyFineTuning
from dalle_jax.tasks.tokenizers.tokenize_images import TokenizeImages
from dalle_jax.tasks.tokenizers.tokenize_images_dvae import TokenizeImagesDvae
from dalle_jax.tasks.tokenizers.tokenize_images_gan import TokenizeImagesGan
from dalle_jax.tasks.upsample_images import UpsampleImages
from dalle_jax.train.trainer import Trainer

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CaptionedData:
    """Fields that ``Data`` and ``OwnData`` share: a source of captioned images and how its images are read.

    - ``evaluation``: the held-out examples, fixed for the whole run. With None nothing is evaluated.
    - ``images``: preprocessing of encoded images. Required for sources of files, None for all other sources.
    - ``workers``: threads that decode images. With 0 a single thread decodes them.
    """

    source: SourceConfig | Mixture | RankedCandidates
    evaluation: SourceConfig | AnyHeldOut | RankedCandidates | None
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

        ``folder`` is the run folder. All hosts must call this together.
        """

        def log(line: str) -> None:
            if hosts.is_first() and not quiet:
                print(line, flush=True)

        return open_batches(
            self.source, self.evaluation, self.batch_size, self.seed, self.images, self.workers, folder, log
        )


AnyTask: TypeAlias = (
    TokenizeImages | TokenizeImagesDvae | TokenizeImagesGan | GenerateCodes | GenerateFromConditions
    | ForecastCodes | AlignTextImages | AlignReadableImages | PredictEmbeddings | DenoiseCodes | DenoiseImages
    | UpsampleImages | AnyFineTuning
)  # fmt: skip
"""The config of a task: one for each training objective."""


@dataclass(frozen=True)
class TrainRun:
    """``train``: the training of one stage.

    Every ``trainer.suites_every`` steps each of ``suites`` measures the run's EMA weights, on the held-out images of
    ``data``; ``suite_clip`` is the folder of the CLIP that ranks their candidates.
    """

    task: AnyTask
    data: Data
    trainer: Trainer
    mesh: Mesh = field(default_factory=Mesh)
    rules: Rules = field(default_factory=Rules)
    suites: Mapping[str, AnySuite] = field(default_factory=dict)
    suite_clip: str | None = None

    def __post_init__(self) -> None:
        images = self.data.evaluation is not None and not isinstance(self.data.source, Codes | ClipEmbeddings)
        check_in_training(self.suites, self.trainer.suites_every, self.suite_clip, images)
        if isinstance(self.task, AnyFineTuning) and self.trainer.initial is None:
            raise ValueError(
                f"trainer.initial: expected the folder of a trained model to fine-tune, such as task.reference "
                f"{self.task.reference}, got None"
            )
        wanted = self.task.batch_spec(1).get("pixels")
        if self.data.images is not None and wanted is not None and self.data.images.size != wanted.shape[1]:
            size = self.data.images.size
            raise ValueError(f"data.images.size: expected {wanted.shape[1]}, the task's image size, got {size}")


@dataclass(frozen=True, kw_only=True)
class OwnData(CaptionedData):
    """The user's captioned images, shared by all stages of a pipeline. Each stage has its own batch size."""

    source: ImageSourceConfig | Mixture
    evaluation: ImageSourceConfig | AnyHeldOut | None
    images: Images

    @property
    def held_out(self) -> AnyHeldOut | None:
        """Return the rule that holds examples out of the source, or None if the evaluation has its own source."""
        return self.evaluation if isinstance(self.evaluation, AnyHeldOut) else None

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
    """``text-tokenizer``: a SentencePiece model trained on the captions of a source's first ``captions`` images.

    - ``lower``: lower-case captions.
    - ``text_length``, ``dropout``: the settings of the model that will use the tokenizer. The command reports how many
      captions that model will truncate.
    - ``blend``: metadata fields with further captions. The tokenizer is trained on all of them.
    - ``held_out``: the rule for images whose captions are not read. Use the value of ``data.evaluation``. With
      ``share``, these are the images that training holds out. With ``count`` they may differ, because this command does
      not check records and so counts bad ones too.

    Each source of a mixture gives a share of ``captions`` in proportion to its weight.
    """

    source: SourceConfig | Mixture
    vocabulary: int
    captions: int
    algorithm: Literal["unigram", "bpe"] = "unigram"
    lower: bool = True
    text_length: int | None = None
    dropout: float = 0.0
    blend: Blend | None = None
    held_out: AnyHeldOut | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.dropout < 1.0 or (self.dropout and self.algorithm != "bpe"):
            raise ValueError(
                f"dropout: expected a share in [0, 1), and 0 unless algorithm is bpe, "
                f"got {self.dropout} with {self.algorithm}"
            )
        if self.captions < 1 or (self.text_length is not None and self.text_length < 1):
            raise ValueError(f"captions, text_length: expected 1 or more, got {self.captions}, {self.text_length}")


@dataclass(frozen=True)
class InspectRun:
    """``inspect``: the contents of a source, and the effect of ``images`` on it.

    At most ``examine`` evenly spread images are read, and ``cells`` of them are shown on the contact sheet. ``text`` is
    a text tokenizer whose tokens are counted: the folder of a model, or a file ``text.model``. ``text_length`` is the
    number of tokens to which captions are truncated; the default is the model's.
    """

    source: ImageSourceConfig | Mixture
    images: Images
    examine: int = 10_000
    cells: int = 60
    text: str | None = None
    text_length: int | None = None


@dataclass(frozen=True)
class EncodeRun:
    """``encode``: the codes of a source's images, or their CLIP embeddings and those of their captions.

    - ``image_tokenizer``: the folder of the image tokenizer whose codes are written.
    - ``clip``: instead of it, the folder of the CLIP whose vectors are written, in float16. ``text_states`` also
      writes the states of its text tower, which transformer priors read.
    - ``crops``: the number of crops of each image. They are the crops that training would use in its first epochs.
    - ``image_size``: the side of a crop in pixels.
    - ``shard_examples``: the number of images that one file holds.
    - ``batch_size``: the number of images that each process encodes at once.
    - ``source``, ``images``, ``workers``: as in ``Data``.
    - ``mesh``, ``rules``: how the devices of each process share images and weights. Processes share the shards, not
      the network.
    - ``part``: if ``held_out`` is set, "training" encodes the training images, and "held_out" the held-out images.
    """

    source: ImageSourceConfig
    image_size: int
    batch_size: int
    image_tokenizer: str | None = None
    clip: str | None = None
    text_states: bool = False
    crops: int = 1
    shard_examples: int = 16_384
    images: Images | None = None
    workers: int = field(default=0, metadata=PER_HOST)
    held_out: AnyHeldOut | None = None
    part: Literal["training", "held_out"] = "training"
    mesh: Mesh = field(default_factory=Mesh)
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        if (self.image_tokenizer is None) == (self.clip is None):
            raise ValueError(
                f"image_tokenizer, clip: expected one of the two, got {self.image_tokenizer} and {self.clip}"
            )
        if self.text_states and self.clip is None:
            raise ValueError("text_states: expected False without a clip, got True")
        if self.part == "held_out" and self.held_out is None:
            raise ValueError(
                "held_out: expected @HeldOut or @HeldOutPairs, because part = 'held_out' encodes the held-out images; "
                "got None"
            )
        if self.images is not None and self.images.size != self.image_size:
            raise ValueError(f"images.size: expected image_size {self.image_size}, got {self.images.size}")

    @property
    def network(self) -> str:
        """The folder of the network that encodes."""
        return next(one for one in (self.image_tokenizer, self.clip) if one is not None)


@dataclass(frozen=True)
class EvaluateRun:
    """``evaluate``: one or more named evaluations of a trained pipeline.

    ``EvaluateScenes`` and ``EvaluateText`` render their own scenes. ``EvaluateCaptioned``, ``EvaluateImages`` and
    ``EvaluateReconstruction`` measure on the held-out images of ``data``, and ``EvaluateIconColours`` draws captions of
    its icons. The pipeline is sharded by ``mesh`` and ``rules``; the default is one device.
    """

    evaluations: Mapping[str, AnySuite]
    data: OwnData | None = None
    mesh: Mesh = field(default_factory=lambda: Mesh(data=1))
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        if not self.evaluations:
            raise ValueError("evaluations: expected at least one, such as evaluations.scenes = @EvaluateScenes")
        needing = on_data(self.evaluations)
        if needing and self.data is None:
            raise ValueError(f"data: expected @OwnData, whose held-out images evaluations.{needing[0]} uses, got None")
        if self.data is not None and not needing:
            raise ValueError("data: expected None, because no evaluation measures on data, got OwnData")

    def data_of(self, batch_size: int) -> Data:
        """Return the data with a batch size. Raise ``UserError`` if a suite needs it and the config has none."""
        if self.data is None:
            raise UserError("data: expected @OwnData, whose held-out images a suite uses, got None")
        return self.data.with_batch_size(batch_size)

    def single(self) -> EvaluateScenes | EvaluateCaptioned:
        """Return the evaluation of a demo. Raise ``UserError`` for several, or one that its report does not show."""
        if len(self.evaluations) > 1:
            raise UserError(f"evaluations: expected exactly one evaluation, got {', '.join(self.evaluations)}")
        ((name, single),) = self.evaluations.items()
        if not isinstance(single, EvaluateScenes | EvaluateCaptioned):
            expected = "expected @EvaluateScenes or @EvaluateCaptioned in a demo"
            raise UserError(f"evaluations.{name}: {expected}, got @{type(single).__name__}")
        return single


DEMO_STAGES = ("text", "tokenizer", "clip", "transformer", "evaluation")
"""The stages of a demo, in the order in which they run."""


@dataclass(frozen=True)
class DemoRun:
    """``demo``: the config file of each stage, by the names in ``DEMO_STAGES``. Each config also works alone.

    - ``stages``: a file that does not exist is searched among the package's configs.
    - ``data``: replaces the data of every stage.
    - ``compared``: a JSON file with measurements of several transformers for the report.
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


UNCLIP_STAGES = ("text", "tokenizer", "clip", "prior", "decoder", "upsampler", "evaluation")
"""The stages of the unCLIP demo, in the order in which they run."""

OPTIONAL_UNCLIP_STAGES = ("tokenizer", "upsampler")
"""The image tokenizer, for a decoder of codes or latents, and the upsampler, for a decoder of pixels or latents."""


@dataclass(frozen=True)
class UnclipDemoRun:
    """``demo-unclip``: the config file of each stage, by the names in ``UNCLIP_STAGES``.

    - ``demo``: the folder of a finished ``demo``, whose text tokenizer and image tokenizer are used. If it has none, or
      for None, both are trained.
    - ``steps``: the steps of the decoder's sampler.
    - ``inpainting``: the evaluation of inpainting and outpainting.
    - ``edits``: that of variations, interpolations and text edits. Neither is measured for a decoder of pixels.
    """

    title: str
    stages: Mapping[str, str]
    demo: str | None = "runs/demo"
    steps: int = 8
    inpainting: EvaluateInpainting = field(default_factory=EvaluateInpainting)
    edits: EvaluateEdits = field(default_factory=EvaluateEdits)

    def __post_init__(self) -> None:
        needed = [name for name in UNCLIP_STAGES if name not in OPTIONAL_UNCLIP_STAGES]
        if not set(needed) <= set(self.stages) <= set(UNCLIP_STAGES):
            got, optional = ", ".join(self.stages) or "none", ", ".join(OPTIONAL_UNCLIP_STAGES)
            raise ValueError(
                f"stages: expected a config file for each of {', '.join(needed)}, and for {optional} if they are "
                f"wanted, got {got}"
            )


@dataclass(frozen=True)
class ReinforcedDemoRun:
    """``demo-reinforced``: training of a finished demo's transformer by rewards, measured before and after.

    - ``demo``: the folder of the finished ``demo``.
    - ``training``, ``evaluation``: the config files of both stages. A file that does not exist is searched among the
      package's configs.
    - ``guidance_before``: the guidance scale of the transformer before. After, it is that of the evaluation.
    """

    title: str
    training: str
    evaluation: str
    demo: str = "runs/demo"
    guidance_before: float = 2.0


Run: TypeAlias = (
    TrainRun | TextTokenizerRun | InspectRun | EncodeRun | EvaluateRun | DemoRun | UnclipDemoRun | ReinforcedDemoRun
)
"""The kind of a run. A config chooses it by the name of a class, such as ``run = @TextTokenizerRun``.

The default is ``TrainRun``.
"""
KINDS = RunKinds(
    Run,
    {
        "TrainRun": "train",
        "TextTokenizerRun": "text-tokenizer",
        "InspectRun": "inspect",
        "EncodeRun": "encode",
        "EvaluateRun": "evaluate",
        "DemoRun": "demo",
        "UnclipDemoRun": "demo-unclip",
        "ReinforcedDemoRun": "demo-reinforced",
    },
)


def load_run(path: str | Path, root: type[T] | UnionType, sets: Sequence[str] = (), within: str = "") -> T:
    """Read a config file as ``config.bind.load`` does; an error names the command for a config of another kind."""
    return load(path, root, sets, within, KINDS)
