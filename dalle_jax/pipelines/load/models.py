"""Load models from run folders: ``model.gin`` is the network's config, the newest checkpoint has its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import cast, get_args

import jax
from flax import nnx

from dalle_jax import storage
from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import did_you_mean
from dalle_jax.models.clip import Clip, ClipConfig
from dalle_jax.models.code_denoiser import CodeDenoiser, CodeDenoiserConfig
from dalle_jax.models.code_generator import (
    CodeGenerator,
    Reduced,
    compute_dtypes,
    prepare_for_sampling,
    reduce_precision,
)
from dalle_jax.models.decoders.consistency_decoded import ConsistencyDecoded
from dalle_jax.models.decoders.consistency_decoder import ConsistencyDecoderConfig
from dalle_jax.models.decoders.pixel_decoder import PixelDecoder, PixelDecoderConfig
from dalle_jax.models.decoders.upsampler import Upsampler, UpsamplerConfig
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.lpips import Lpips, LpipsConfig
from dalle_jax.models.model_configs import (
    AnyModelConfig,
    CodeGeneratorConfig,
    ImageTokenizerConfig,
    ModelConfig,
    Network,
    PriorConfig,
)
from dalle_jax.models.priors.prior import Prior
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.bounded_build import build_shapes, check_sizes
from dalle_jax.sampling.options import RecommendedSampling
from dalle_jax.storage import Place
from dalle_jax.train.checkpoints.checkpoints import count_arrays, load_params
from dalle_jax.untrusted import read_text_file


@dataclass(frozen=True)
class ModelFile:
    """The content of ``model.gin``, which builds the network without the task that trained it.

    ``needs`` names the folders of the models that this one depends on: a transformer needs the ``image_tokenizer``
    whose codes it generates. ``prefix`` (such as "generator.") is the path of the network within the trained module.
    ``sampling`` are options that the publisher or the training recommends.
    """

    model: AnyModelConfig
    needs: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    sampling: RecommendedSampling | None = None


@dataclass(frozen=True)
class PipelineFile:
    """The content of ``pipeline.gin``: the folders of the models of a pipeline by name, relative to the file's folder.

    A pipeline has an ``image_tokenizer`` and a ``transformer`` of its codes, and may have a ``clip`` that ranks and a
    ``forecast``, the heads that guess codes in parallel decoding. An unCLIP has a ``decoder`` and the ``clip`` that it
    was trained with. A decoder of codes needs an ``image_tokenizer``; after one of pixels, ``upsampler`` and
    ``upsampler_2`` enlarge the image. Without a ``prior`` it decodes the text's vector. ``steps`` are those of its
    decoder; None is the default. A ``consistency_decoder`` replaces the decoder of the image tokenizer. ``sampling``
    are options that an evaluation of the whole pipeline recommends, in place of those of the transformer's own file.
    """

    needs: Mapping[str, str]
    steps: int | None = None
    sampling: RecommendedSampling | None = None

    def __post_init__(self) -> None:
        for name in self.needs:
            if name not in PIPELINE_NEEDS:
                hint = did_you_mean(name, PIPELINE_NEEDS, "needs.")
                raise ValueError(f"needs.{name}: expected one of {', '.join(PIPELINE_NEEDS)}, got {name}{hint}")
        if self.is_unclip and "transformer" in self.needs:
            raise ValueError("needs: expected a transformer or a decoder, got both")
        required = ("decoder", "clip") if self.is_unclip else ("image_tokenizer", "transformer")
        for name in required:
            if name not in self.needs:
                raise ValueError(f"needs.{name}: expected a folder, got none")
        of_unclip = {f"needs.{name}": name in self.needs for name in ("prior", *UPSAMPLERS)}
        of_unclip |= {"steps": self.steps is not None}
        if self.is_unclip and "forecast" in self.needs:
            raise ValueError("needs.forecast: expected none with needs.decoder, since it guesses a transformer's codes")
        if self.is_unclip and self.sampling is not None and self.sampling.top_k is not None:
            raise ValueError(f"sampling.top_k: expected none with needs.decoder, got {self.sampling.top_k}")
        for name in (name for name, given in of_unclip.items() if given and not self.is_unclip):
            raise ValueError(f"{name}: expected none without needs.decoder, since a transformer has no {name}")

    @property
    def is_unclip(self) -> bool:
        """True for a decoder of CLIP embeddings, False for a transformer."""
        return "decoder" in self.needs


MODEL_FILE = "model.gin"
UPSAMPLERS = ("upsampler", "upsampler_2")
PIPELINE_NEEDS = (
    "image_tokenizer", "transformer", "clip", "decoder", "prior", *UPSAMPLERS, "consistency_decoder", "forecast"
)  # fmt: skip
"""Names of the models that a pipeline may be made of."""


def absolute_needs(**folders: str | None) -> dict[str, str]:
    """Return the ``needs`` of a model file: absolute folders by name, without those that are None."""
    given = {name: folder for name, folder in folders.items() if folder is not None}
    return {name: str(storage.absolute(storage.place(folder))) for name, folder in given.items()}


def read_model_file(folder: Place) -> ModelFile:
    """Read ``model.gin`` of a run folder. Raise ``UserError`` if it does not exist."""
    path = folder / MODEL_FILE
    if not path.is_file():
        raise UserError(
            f"{folder}: expected the folder of a trained model, which contains model.gin, found no such file"
        )
    file = loads(read_text_file(path), ModelFile, name=str(path))
    check_sizes(file.model, str(path))
    return file


def load_network(
    folder: Place,
    kinds: tuple[type[ModelConfig[Network]], ...],
    layout: Layout | None = None,
    *,
    in_compute_dtype: bool = False,
) -> Network:
    """Load the network of a run folder with its averaged weights; its config must be one of ``kinds``.

    With a ``layout`` each device gets only its shards; without one, the first device gets all. With
    ``in_compute_dtype`` matrices have the dtype in which the network multiplies them (models/code_generator.py).
    """
    file = read_model_file(folder)
    config = file.model
    if not isinstance(config, kinds):
        expected = " or ".join(kind.__name__.removesuffix("Config") for kind in kinds)
        raise UserError(f"{folder}: expected a {expected}, got a {type(config).__name__.removesuffix('Config')}")
    module = build_shapes(config, count_arrays(folder), str(folder))
    dtypes = compute_dtypes(module) if in_compute_dtype else {}
    load_params(folder, module, layout=layout, prefix=file.prefix, dtypes=dtypes)
    return module


def load_image_tokenizer(folder: Place, layout: Layout | None = None) -> ImageTokenizer:
    """Load a trained image tokenizer."""
    return load_network(folder, get_args(ImageTokenizerConfig), layout)


def load_tokenizer_of(needs: Mapping[str, str], layout: Layout | None = None) -> ImageTokenizer:
    """Load the image tokenizer of a pipeline's ``needs``, with the consistency decoder if they name one.

    Raise UserError for a consistency decoder of other latents.
    """
    tokenizer = load_image_tokenizer(storage.place(needs["image_tokenizer"]), layout)
    if "consistency_decoder" not in needs:
        return tokenizer
    folder = storage.place(needs["consistency_decoder"])
    decoder = load_network(folder, (ConsistencyDecoderConfig,), layout)
    try:
        return ConsistencyDecoded(tokenizer, decoder)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error


def load_tokenizer_in(folder: Place, layout: Layout | None = None) -> ImageTokenizer:
    """Load the image tokenizer of a folder, which is its own or that of a pipeline or transformer.

    Raise UserError for a model that has none.
    """
    if not (folder / "pipeline.gin").is_file():
        model = read_model_file(folder).model
        if isinstance(model, get_args(ImageTokenizerConfig)):
            return load_image_tokenizer(folder, layout)
        if not isinstance(model, CodeGeneratorConfig):
            got = type(model).__name__.removesuffix("Config")
            raise UserError(f"{folder}: expected an image tokenizer or a model that has one, got a {got}")
    needs = stage_folders(folder).needs
    if "image_tokenizer" not in needs:
        raise UserError(f"{folder}: expected a model with an image tokenizer, got one of {', '.join(sorted(needs))}")
    return load_tokenizer_of(needs, layout)


def load_lpips(folder: Place) -> Lpips:
    """Load the imported perceptual distance."""
    return load_network(folder, (LpipsConfig,))


def load_generator(folder: Place, layout: Layout | None = None, reduced: Reduced | None = None) -> CodeGenerator:
    """Load a trained transformer for sampling: matrices in its dtype, and code vectors folded into its tables.

    ``reduced`` precision is applied to the loaded weights, one matrix after the other.
    """
    generator = load_network(folder, get_args(CodeGeneratorConfig), layout, in_compute_dtype=True)
    prepare_for_sampling(generator)
    if reduced is not None:
        reduce_precision(generator, reduced)
        if layout is not None:  # new arrays may be sharded in another way
            module = cast(nnx.Module, generator)
            state = nnx.state(module)
            nnx.update(module, jax.device_put(state, layout.state_shardings(state)))
    return generator


def load_clip(folder: Place, layout: Layout | None = None) -> Clip:
    """Load a trained CLIP."""
    return load_network(folder, (ClipConfig,), layout)


def load_code_denoiser(folder: Place, layout: Layout | None = None) -> CodeDenoiser:
    """Load a trained code denoiser, with the code vectors of its image tokenizer."""
    return load_network(folder, (CodeDenoiserConfig,), layout)


def load_pixel_decoder(folder: Place, layout: Layout | None = None) -> PixelDecoder:
    """Load a trained pixel decoder."""
    return load_network(folder, (PixelDecoderConfig,), layout)


def load_upsampler(folder: Place, layout: Layout | None = None) -> Upsampler:
    """Load a trained upsampler."""
    return load_network(folder, (UpsamplerConfig,), layout)


def load_prior(folder: Place, layout: Layout | None = None) -> Prior:
    """Load a trained or imported prior."""
    return load_network(folder, get_args(PriorConfig), layout)


def stage_folders(
    folder: Place,
    image_tokenizer: Place | None = None,
    clip: Place | None = None,
    consistency_decoder: Place | None = None,
    forecast: Place | None = None,
) -> PipelineFile:
    """Return the folders of a pipeline's models, from ``pipeline.gin`` or from the ``model.gin`` of a transformer.

    The other arguments replace the folders that the file names. The CLIP of an unCLIP stays, since the decoder reads
    its embeddings.
    """
    given = {"image_tokenizer": image_tokenizer, "clip": clip, "consistency_decoder": consistency_decoder}
    given["forecast"] = forecast
    replacing = {name: str(one) for name, one in given.items() if one is not None}
    path = folder / "pipeline.gin"
    if path.is_file():
        file: PipelineFile = loads(read_text_file(path), PipelineFile, name=str(path))
        if file.is_unclip:
            replacing.pop("clip", None)
        return replace(file, needs={name: str(folder / one) for name, one in file.needs.items()} | replacing)
    model = read_model_file(folder)
    if not isinstance(model.model, CodeGeneratorConfig):
        raise UserError(
            f"{folder}: expected pipeline.gin, or model.gin of a transformer that generates codes, "
            f"got a {type(model.model).__name__.removesuffix('Config')}"
        )
    needs = {**model.needs, "transformer": str(folder), **replacing}
    if "image_tokenizer" not in needs:
        raise UserError(
            f"{folder}: its model.gin does not name an image tokenizer; give its folder with --image-tokenizer DIR "
            "(in Python image_tokenizer=DIR)"
        )
    return PipelineFile(needs)
