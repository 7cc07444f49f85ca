"""Fine-tuning of a text-to-image transformer beside the frozen one from which it starts."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast, get_args

from flax import nnx

from dalle_jax import storage
from dalle_jax.arrays import Array, Float, Key
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.models.code_generator import CodeGenerator, prepare_for_sampling
from dalle_jax.models.dalle import Dalle
from dalle_jax.models.dalle_bart import DalleBart
from dalle_jax.models.model_configs import TextToCodesConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.models import ModelFile, absolute_needs, load_generator, read_model_file
from dalle_jax.sampling.options import RecommendedSampling
from dalle_jax.tasks.generate_codes import CodeGeneration
from dalle_jax.train.task import Batch, Frozen, MetricSums

REFERENCE = "reference"
"""The name of the frozen start of training among the frozen networks."""


@dataclass(frozen=True, eq=False)
class FineTunedGeneration(ABC):
    """A task that fine-tunes a transformer, which it creates, measures and writes as ``generate`` does.

    ``reference`` is the transformer from which training starts, frozen and prepared for sampling.
    """

    generate: CodeGeneration
    reference: CodeGenerator

    @property
    @abstractmethod
    def recommended_guidance(self) -> float:
        """The guidance scale that ``model.gin`` recommends for the fine-tuned transformer."""

    def init(self, rngs: nnx.Rngs) -> Dalle | DalleBart:
        """Create the transformer."""
        return self.generate.init(rngs)

    def frozen(self) -> Frozen:
        """Return the image tokenizer, if there is one, and the transformer from which training starts."""
        return {**self.generate.frozen(), REFERENCE: cast(nnx.Module, self.reference)}

    def evaluate(self, module: Dalle | DalleBart, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Return nats per code (and per text token) of held-out examples, and the effect of guidance."""
        return self.generate.evaluate(module, frozen, batch, key)

    def images(
        self, module: Dalle | DalleBart, frozen: Frozen, batch: Batch, key: Key[Array, ""]
    ) -> Float[Array, "n H W 3"] | None:
        """Return one sample for each of the first captions."""
        return self.generate.images(module, frozen, batch, key)

    def cut_captions(self) -> tuple[int, int, str]:
        """Return the number of truncated captions, the number of captions read, and a text that names the limit."""
        return self.generate.cut_captions()

    def model_files(self) -> dict[str, bytes]:
        """Return the files of ``CodeGeneration.model_files``; ``model.gin`` has ``recommended_guidance`` too."""
        generate = self.generate.config
        needs = absolute_needs(image_tokenizer=generate.image_tokenizer)
        recommended = RecommendedSampling(guidance=self.recommended_guidance)
        file = ModelFile(model=generate.model, needs=needs, sampling=recommended)
        return {**self.generate.model_files(), "model.gin": render(file).encode()}


def abstract_reference(model: TextToCodesConfig) -> Dalle | DalleBart:
    """Return a frozen transformer that has shapes and no values."""

    def build() -> Dalle | DalleBart:
        module: Dalle | DalleBart = model.build(nnx.Rngs(0))
        prepare_for_sampling(module)
        return module

    return nnx.eval_shape(build)


def load_reference(folder: str, model: TextToCodesConfig, layout: Layout) -> CodeGenerator:
    """Load a frozen transformer. Raise ``UserError`` if its texts or codes differ from those of ``model``."""
    place = storage.place(folder)
    found = read_model_file(place).model
    if not isinstance(found, get_args(TextToCodesConfig)):
        raise UserError(
            f"task.reference: expected the folder of a text-to-image transformer, got one of a "
            f"{type(found).__name__.removesuffix('Config')} in {folder}"
        )
    expected, given = _interface(model), _interface(cast(TextToCodesConfig, found))
    if given != expected:
        raise UserError(
            "task.reference: expected a transformer of the text_vocab, text_length, codebook_size and grid of "
            f"task.generate.model, {expected}, got {given} in {folder}"
        )
    return load_generator(place, layout)


def _interface(model: TextToCodesConfig) -> tuple[int, int, int, tuple[int, int]]:
    return model.text_vocab, model.text_length, model.codebook_size, model.grid
