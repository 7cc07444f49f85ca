"""The root dataclass of each command: what a config file of that command fills in."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from dalle_jax.data.choices import OfAny, OfPictures
from dalle_jax.data.held_out import HeldOut
from dalle_jax.data.loader import Loader
from dalle_jax.data.mixture import Mixture
from dalle_jax.data.opening import open_batches
from dalle_jax.data.pictures import Pictures
from dalle_jax.data.scenes import Scenes
from dalle_jax.evaluate.scenes import EvaluateScenes
from dalle_jax.parallel import hosts
from dalle_jax.parallel.mesh import Mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.storage import Place
from dalle_jax.tasks.align_text_images import AlignTextImages
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.tasks.tokenize_images import TokenizeImages
from dalle_jax.train.loop import Trainer


@dataclass(frozen=True)
class Data:
    """What is trained on, and the fixed held-out examples for the figures that are printed while training.

    ``pictures`` says how sources of encoded pictures become examples, and is None where there are none. ``workers`` are
    threads that decode beside the loop; with 0 there is one that does all.
    """

    source: OfAny | Mixture
    evaluation: OfAny | HeldOut
    batch_size: int
    seed: int = 0
    pictures: Pictures | None = None
    workers: int = 0

    def open(self, folder: Place | None = None) -> Loader:
        """Batches as the trainer asks for them; ``folder`` is the run's. All hosts call it at the same place."""

        def say(line: str) -> None:
            if hosts.is_first():
                print(line, flush=True)

        return open_batches(
            self.source, self.evaluation, self.batch_size, self.seed, self.pictures, self.workers, folder, say
        )


@dataclass(frozen=True)
class TrainRun:
    """``train``: one stage."""

    task: TokenizeImages | GenerateCodes | AlignTextImages
    data: Data
    trainer: Trainer
    mesh: Mesh = field(default_factory=Mesh)
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        wanted = self.task.batch_spec(1).get("pixels")
        if self.data.pictures is not None and wanted is not None and self.data.pictures.size != wanted.shape[1]:
            size = self.data.pictures.size
            raise ValueError(f"data.pictures.size: expected {wanted.shape[1]}, the task's pictures, got {size}")


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
    devices of each process. ``source``, ``pictures`` and ``workers`` are as in ``Data``; with ``held_out`` the
    pictures are those that training is given beside it, or, with ``part`` "held_out", those that it is not.
    """

    source: OfPictures
    image_tokenizer: str
    image_size: int
    batch_size: int
    crops: int = 1
    shard_examples: int = 16_384
    pictures: Pictures | None = None
    workers: int = 0
    held_out: HeldOut | None = None
    part: Literal["training", "held_out"] = "training"

    def __post_init__(self) -> None:
        if self.part == "held_out" and self.held_out is None:
            raise ValueError("part: expected held_out to say which pictures these are, got None")
        if self.pictures is not None and self.pictures.size != self.image_size:
            raise ValueError(f"pictures.size: expected image_size {self.image_size}, got {self.pictures.size}")


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
