"""The root dataclass of each command: what a config file of that command fills in."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from dalle_jax.data.codes import Codes
from dalle_jax.data.loader import Loader
from dalle_jax.data.scenes import Scenes
from dalle_jax.evaluate.scenes import EvaluateScenes
from dalle_jax.parallel.mesh import Mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.tasks.align_text_images import AlignTextImages
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.tasks.tokenize_images import TokenizeImages
from dalle_jax.train.loop import Trainer


@dataclass(frozen=True)
class Data:
    """What is trained on, and the fixed held-out examples for the figures that are printed while training."""

    source: Scenes | Codes
    evaluation: Scenes | Codes
    batch_size: int
    seed: int = 0

    def open(self) -> Loader:
        """Batches as the trainer asks for them."""
        return Loader(self.source.open(), self.evaluation.open(), self.batch_size, self.seed)


@dataclass(frozen=True)
class TrainRun:
    """``train``: one stage."""

    task: TokenizeImages | GenerateCodes | AlignTextImages
    data: Data
    trainer: Trainer
    mesh: Mesh = field(default_factory=Mesh)
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True)
class TextTokenizerRun:
    """``text-tokenizer``: a SentencePiece model from the first ``captions`` captions of a source."""

    source: Scenes
    vocabulary: int
    captions: int
    algorithm: Literal["unigram", "bpe"] = "unigram"
    seed: int = 0


@dataclass(frozen=True)
class EncodeRun:
    """``encode``: the codes that the tokenizer in the folder ``image_tokenizer`` gives for a source's pictures.

    Of each picture ``crops`` are encoded, at ``image_size`` pixels a side: those that the source shows in its first
    epochs. A file holds the codes of ``shard_examples`` pictures; ``batch_size`` pictures are encoded at once on the
    devices of each process.
    """

    source: Scenes
    image_tokenizer: str
    image_size: int
    batch_size: int
    crops: int = 1
    shard_examples: int = 16_384


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


Run: TypeAlias = TrainRun | TextTokenizerRun | EncodeRun | EvaluateRun | DemoRun
"""A config file says which it is by ``run = @TextTokenizerRun``; one that says nothing is a ``TrainRun``."""
