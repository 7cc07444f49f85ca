"""Run folders back to models: ``model.gin`` says what the network is, the newest checkpoint holds its weights."""

from dataclasses import dataclass
from typing import Any

from flax import nnx

from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.models.clip import Clip, ClipConfig
from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.models.dalle_bart import DalleBart, DalleBartConfig
from dalle_jax.models.dvae import Dvae, DvaeConfig
from dalle_jax.models.llamagen import LlamaGen, LlamaGenConfig
from dalle_jax.models.lpips import Lpips, LpipsConfig
from dalle_jax.models.vqgan import Vqgan, VqganConfig
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.storage import Place
from dalle_jax.train.checkpoint import load_params


@dataclass(frozen=True)
class ModelFile:
    """What ``model.gin`` says: enough to build the network without the task that trained it.

    ``image_tokenizer`` is the folder of the tokenizer whose codes a transformer generates. ``prefix`` (such as
    "generator.") is where the network sits in what was trained.
    """

    model: (
        VqvaeConfig
        | DvaeConfig
        | VqganConfig
        | DalleConfig
        | DalleBartConfig
        | LlamaGenConfig
        | ClipConfig
        | LpipsConfig
    )
    image_tokenizer: str | None = None
    prefix: str = ""


@dataclass(frozen=True)
class PipelineFile:
    """What ``pipeline.gin`` says: the folders, relative to its own, of the stages that draw together."""

    image_tokenizer: str
    transformer: str
    clip: str | None = None


NETWORKS: dict[type, Any] = {
    VqvaeConfig: Vqvae,
    DvaeConfig: Dvae,
    VqganConfig: Vqgan,
    LpipsConfig: Lpips,
    DalleConfig: Dalle,
    DalleBartConfig: DalleBart,
    LlamaGenConfig: LlamaGen,
    ClipConfig: Clip,
}


TOKENIZERS = (VqvaeConfig, DvaeConfig, VqganConfig)
GENERATORS = (DalleConfig, DalleBartConfig, LlamaGenConfig)


def build(config: Any, rngs: nnx.Rngs) -> Any:
    """The network of a config, newly initialised."""
    return NETWORKS[type(config)](config, rngs=rngs)


def read_model_file(folder: Place) -> ModelFile:
    """``model.gin`` of a run folder; raises UserError where there is none."""
    path = folder / "model.gin"
    if not path.is_file():
        raise UserError(f"{folder}: expected the folder of a trained model, which holds model.gin, found none there")
    return loads(path.read_text(encoding="utf-8"), ModelFile, name=str(path))


def load_network(folder: Place, kinds: tuple[type, ...]) -> Any:
    """The network of a run folder with its averaged weights; its config must be one of ``kinds``."""
    file = read_model_file(folder)
    config = file.model
    if not isinstance(config, kinds):
        expected = " or ".join(kind.__name__.removesuffix("Config") for kind in kinds)
        raise UserError(f"{folder}: expected a {expected}, got a {type(config).__name__.removesuffix('Config')}")
    module = nnx.eval_shape(lambda: build(config, nnx.Rngs(0)))
    load_params(folder, module, prefix=file.prefix)
    return module


def load_image_tokenizer(folder: Place) -> Any:
    """A trained image tokenizer (models/image_tokenizer.py)."""
    return load_network(folder, TOKENIZERS)


def load_lpips(folder: Place) -> Lpips:
    """The imported perceptual distance."""
    return load_network(folder, (LpipsConfig,))


def load_generator(folder: Place) -> Any:
    """A trained text-to-codes transformer (models/code_generator.py), its code tokens folded into plain tables."""
    generator = load_network(folder, GENERATORS)
    generator.codes.fold()
    return generator


def load_clip(folder: Place) -> Clip:
    """A trained CLIP."""
    return load_network(folder, (ClipConfig,))


def stage_folders(folder: Place, image_tokenizer: Place | None = None, clip: Place | None = None) -> PipelineFile:
    """The folders of the stages: from ``pipeline.gin``, or of a transformer alone, from its ``model.gin``.

    ``image_tokenizer`` and ``clip``, where given, take the place of those that are named there.
    """
    tokenizer, ranker = (None if one is None else str(one) for one in (image_tokenizer, clip))
    path = folder / "pipeline.gin"
    if path.is_file():
        file: PipelineFile = loads(path.read_text(encoding="utf-8"), PipelineFile, name=str(path))
        return PipelineFile(
            image_tokenizer=tokenizer or str(folder / file.image_tokenizer),
            transformer=str(folder / file.transformer),
            clip=ranker or (None if file.clip is None else str(folder / file.clip)),
        )
    model = read_model_file(folder)
    if not isinstance(model.model, GENERATORS):
        raise UserError(
            f"{folder}: expected pipeline.gin, or model.gin of a transformer that draws codes, "
            f"got a {type(model.model).__name__.removesuffix('Config')}"
        )
    named = tokenizer or model.image_tokenizer
    if named is None:
        raise UserError(
            f"{folder}: its model.gin names no image tokenizer; name the folder of one with --image-tokenizer DIR "
            "(in Python image_tokenizer=DIR)"
        )
    return PipelineFile(image_tokenizer=named, transformer=str(folder), clip=ranker)
