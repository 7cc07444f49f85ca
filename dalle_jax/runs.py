"""The root dataclass of each command: what a config file of that command fills in."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from dalle_jax.data.folder import Folder
from dalle_jax.data.loader import Loader
from dalle_jax.data.pictures import Pictures
from dalle_jax.data.scenes import Scenes
from dalle_jax.data.webdataset import WebDataset
from dalle_jax.evaluate.scenes import EvaluateScenes
from dalle_jax.parallel.mesh import Mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.tasks.align_text_images import AlignTextImages
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.tasks.generate_from_conditions import GenerateFromConditions
from dalle_jax.tasks.tokenize_images import TokenizeImages
from dalle_jax.train.loop import Trainer


@dataclass(frozen=True)
class Data:
    """What is trained on, and the fixed held-out examples for the figures that are printed while training."""

    source: Scenes
    evaluation: Scenes
    batch_size: int
    seed: int = 0

    def open(self) -> Loader:
        """Batches as the trainer asks for them."""
        return Loader(self.source.open(), self.evaluation.open(), self.batch_size, self.seed)


@dataclass(frozen=True)
class TrainRun:
    """``train``: one stage."""

    task: TokenizeImages | GenerateCodes | GenerateFromConditions | AlignTextImages
    data: Data
    trainer: Trainer
    mesh: Mesh = field(default_factory=Mesh)
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True)
class TextTokenizerRun:
    """``text-tokenizer``: a SentencePiece model from the captions of a source's first ``captions`` pictures.

    ``lower`` folds case. ``text_length`` and ``dropout`` are those of the model that will read it: how many captions it
    will cut is said when the tokenizer is trained.
    """

    source: Scenes | WebDataset | Folder
    vocabulary: int
    captions: int
    algorithm: Literal["unigram", "bpe"] = "unigram"
    lower: bool = True
    text_length: int | None = None
    dropout: float = 0.0
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
    """``inspect``: what is in a source, and what ``pictures`` makes of it.

    Of a source of more than ``examine`` pictures so many are looked at, evenly spread; ``cells`` are on the sheet.
    """

    source: Scenes | WebDataset | Folder
    pictures: Pictures
    examine: int = 10_000
    cells: int = 60


@dataclass(frozen=True)
class EvaluateRun:
    """``evaluate``: the figures of a trained pipeline."""

    evaluation: EvaluateScenes


@dataclass(frozen=True)
class DemoRun:
    """``demo``: the config files of its stages in the order in which they run, each usable alone.

    Files are looked for as they stand, then among the package's configs. ``compared`` names a JSON file with what both
    transformers measured in this demo, which the report shows.
    """

    title: str
    text: str
    tokenizer: str
    clip: str
    transformer: str
    evaluation: str
    compared: str | None = None


Run: TypeAlias = TrainRun | TextTokenizerRun | InspectRun | EvaluateRun | DemoRun
"""A config file says which it is by ``run = @TextTokenizerRun``; one that says nothing is a ``TrainRun``."""
