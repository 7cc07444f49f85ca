"""The closed unions of model configs: a new model must be added only here.

Config files (``@Name``), ``model.gin``, loading and the annotations of tasks follow from these unions.
"""

from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

from flax import nnx

from dalle_jax.models.clip import ClipConfig, ClipImageConfig, ClipTextConfig
from dalle_jax.models.code_denoiser import CodeDenoiserConfig
from dalle_jax.models.dalle import DalleConfig
from dalle_jax.models.dalle_bart import DalleBartConfig
from dalle_jax.models.decoders.consistency_decoder import ConsistencyDecoderConfig
from dalle_jax.models.decoders.pixel_decoder import PixelDecoderConfig
from dalle_jax.models.decoders.upsampler import UpsamplerConfig
from dalle_jax.models.dvae import DvaeConfig
from dalle_jax.models.glide import GlideConfig
from dalle_jax.models.heads.forecast_heads import ForecastHeadsConfig
from dalle_jax.models.llamagen import LlamaGenConfig
from dalle_jax.models.lpips import LpipsConfig
from dalle_jax.models.patch_denoisers.patch_transformer import PatchTransformerConfig
from dalle_jax.models.priors.autoregressive_prior import AutoregressivePriorConfig
from dalle_jax.models.priors.diffusion_prior import DiffusionPriorConfig
from dalle_jax.models.priors.mlp_prior import MlpPriorConfig
from dalle_jax.models.priors.one_step_prior import OneStepPriorConfig
from dalle_jax.models.priors.unclip_text_projection import UnclipTextProjectionConfig
from dalle_jax.models.unet import UNetConfig
from dalle_jax.models.vision.dinov2 import Dinov2Config
from dalle_jax.models.vision.efficientnet_lite import EfficientNetLiteConfig
from dalle_jax.models.vision.inception_v3 import InceptionV3Config
from dalle_jax.models.vqgan import VqganConfig
from dalle_jax.models.vqvae import VqvaeConfig

Network = TypeVar("Network", covariant=True)


@runtime_checkable
class ModelConfig(Protocol[Network]):
    """The config of a network: a frozen dataclass of sizes that builds the network."""

    def build(self, rngs: nnx.Rngs) -> Network:
        """Create the network with newly initialised weights."""


ImageTokenizerConfig: TypeAlias = VqvaeConfig | DvaeConfig | VqganConfig
"""Configs of the networks that implement ``ImageTokenizer``."""

CodeGeneratorConfig: TypeAlias = DalleConfig | DalleBartConfig | LlamaGenConfig
"""Configs of the networks that implement ``CodeGenerator``."""

TextToCodesConfig: TypeAlias = DalleConfig | DalleBartConfig
"""Configs of the code generators whose prompts are token ids."""

DiffusionConfig: TypeAlias = (
    CodeDenoiserConfig
    | UNetConfig
    | GlideConfig
    | PatchTransformerConfig
    | PixelDecoderConfig
    | UpsamplerConfig
    | ConsistencyDecoderConfig
)
"""Configs of the networks that predict from noised images or code vectors."""

PriorConfig: TypeAlias = DiffusionPriorConfig | OneStepPriorConfig | AutoregressivePriorConfig | MlpPriorConfig
"""Configs of the networks that implement ``Prior``."""

UnclipPartConfig: TypeAlias = ClipTextConfig | ClipImageConfig | UnclipTextProjectionConfig
"""Configs of the other parts of unCLIP: towers of a CLIP, and the projections that the decoder reads."""

VisionConfig: TypeAlias = EfficientNetLiteConfig | InceptionV3Config | Dinov2Config
"""Configs of the frozen networks that metrics see images with."""

AnyModelConfig: TypeAlias = (
    ImageTokenizerConfig
    | CodeGeneratorConfig
    | DiffusionConfig
    | PriorConfig
    | UnclipPartConfig
    | ClipConfig
    | LpipsConfig
    | VisionConfig
    | ForecastHeadsConfig
)
"""Configs of all networks that a run folder can hold."""
