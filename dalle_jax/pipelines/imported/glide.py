"""GLIDE as a pipeline that samples images of prompts, and fills holes with its inpainting networks (arXiv 2112.10741).

B rows   P prompts   M candidates of a prompt   T text length   S side of the image
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Float, Int, Key, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.guidance import clip_gradient
from dalle_jax.diffusion.levels import NoiseLevel
from dalle_jax.images.pixels import to_uint8
from dalle_jax.models.clip import Clip
from dalle_jax.models.glide import KEPT_CHANNELS, Glide, KnownPixels
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.edits.filler import FillCall
from dalle_jax.pipelines.edits.pixel_filler import known_at
from dalle_jax.pipelines.imported.glide_stages import (
    ClipGuide,
    GlidePrompts,
    base_levels,
    read_prompts,
    sample_base,
    sample_upsampler,
    upsampler_noise,
)
from dalle_jax.pipelines.imported.karlo_stages import StageNoise
from dalle_jax.pipelines.prompted_pipeline import DiffusionPipeline, DrawCall, check_diffusion_options
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Request
from dalle_jax.sampling.options import RecommendedSampling
from dalle_jax.text.tokenizer import TextTokenizer


@dataclass(frozen=True)
class GlideFile:
    """The content of ``glide.gin``, next to the folders of the networks: image sizes, and sampling as published.

    ``base_side`` and ``side`` are the sides of the base's image and of the result, in pixels. ``guidance`` is the
    base's, for requests that give none, and ``steps`` are the base's; the upsampler's 27 are fixed.
    """

    base_side: int = 64
    side: int = 256
    guidance: float = 3.0
    steps: int = 100

    def __post_init__(self) -> None:
        if self.side % self.base_side or not 2 <= self.steps <= 1000:
            raise ValueError(
                "side, steps: expected a multiple of base_side, and between 2 and 1000, got "
                f"{self.side} with {self.base_side}, and {self.steps}"
            )


class GlideNetworks(nnx.Module):
    """The base and the upsampler, both for inpainting or both not, and a CLIP of noised images that guides the base."""

    def __init__(self, base: Glide, upsampler: Glide, guide: Clip | None = None) -> None:
        self.base, self.upsampler, self.guide = base, upsampler, guide
        found = base.config.unet.extra_channels, upsampler.config.unet.extra_channels
        if found not in ((0, 3), (KEPT_CHANNELS, KEPT_CHANNELS + 3)):
            raise UserError(
                "base, upsampler: expected networks with 0 and 3 additional channels, or 4 and 7 for inpainting, got "
                f"{found[0]} and {found[1]}"
            )

    @property
    def inpaint(self) -> bool:
        """True for networks that read kept pixels."""
        return self.base.config.unet.extra_channels == KEPT_CHANNELS


class KnownSizes(NamedTuple):
    """Known pixels at the size of the base and at that of the result."""

    small: KnownPixels
    large: KnownPixels


def _sample(
    networks: GlideNetworks,
    prompts: GlidePrompts,
    empty: GlidePrompts,
    keys: Key[Array, "P M"],
    guidance: Float[Array, " P"],
    known: KnownSizes | None,
    guide_ids: Int[Array, "P T"] | None,
    file: GlideFile,
    guided: bool,
    clip_scale: float,
) -> UInt8[Array, "B S S 3"]:
    """Sample M images of each prompt; an image depends on its key, its prompt and its known pixels alone."""
    rows, count = keys.reshape(-1), keys.shape[1]
    text = GlidePrompts(*(jnp.repeat(leaf, count, axis=0) for leaf in prompts))
    base_keys, upsampler_keys = (
        jax.vmap(lambda key, stage=stage: jax.random.fold_in(key, stage))(rows) for stage in range(2)
    )
    small_shape, large_shape = (file.base_side, file.base_side, 3), (file.side, file.side, 3)
    if known is None and networks.inpaint:
        known = KnownSizes(_nothing_known(len(rows), small_shape), _nothing_known(len(rows), large_shape))
    image = sample_base(
        networks.base, text, empty, StageNoise.of(base_keys, small_shape),
        jnp.repeat(guidance, count) if guided else None, known=None if known is None else known.small,
        guide=_clip_guide(networks.guide, guide_ids, count, clip_scale), levels=base_levels(file.steps),
    )  # fmt: skip
    noise = upsampler_noise(upsampler_keys, large_shape)
    large = sample_upsampler(networks.upsampler, text, image, noise, known=None if known is None else known.large)
    return to_uint8((large + 1) / 2)


def _clip_guide(clip: Clip | None, ids: Int[Array, "P T"] | None, count: int, scale: float) -> ClipGuide | None:
    """Return the guidance toward the texts by a CLIP that was trained on noised images."""
    if clip is None or ids is None:
        return None

    def embed(x: Array, level: NoiseLevel) -> Array:
        return clip.encode_noised(x, level.time)

    return ClipGuide(clip_gradient(embed, jnp.repeat(clip.encode_text(ids), count, axis=0)), scale)


def _nothing_known(rows: int, shape: tuple[int, int, int]) -> KnownPixels:
    return KnownPixels(jnp.zeros((rows, *shape)), jnp.zeros((rows, *shape[:2], 1)))


class GlidePipeline(DiffusionPipeline):
    """Base and upsampler, the reader of prompts, and a CLIP that ranks the images, if there is one.

    A call samples at most ``batch`` images. ``guide_text`` reads the prompts for the CLIP of ``networks`` that guides,
    by ``clip_scale``.
    """

    def __init__(
        self,
        networks: GlideNetworks,
        prompts: TextPrompts,
        file: GlideFile,
        *,
        ranker: ClipRanker | None = None,
        guide_text: TextTokenizer | None = None,
        clip_scale: float = 0.0,
        batch: int = 64,
        layout: Layout | None = None,
    ) -> None:
        """Place the networks by ``layout``, by default on one device."""
        self.prompts, self.file, self.ranker, self.batch = prompts, file, ranker, batch
        self.guide_text, self.clip_scale = guide_text, clip_scale
        self.recommended = RecommendedSampling(guidance=file.guidance)
        network = CompiledNetwork(networks, layout)
        self.network, self.parts, self.layout = network, network.parts, network.layout
        self._inpaints = networks.inpaint
        self._sample = network.jit(_sample, static_argnames=("file", "guided", "clip_scale"))

    @property
    def side(self) -> int:
        """The side of an image in pixels."""
        return self.file.side

    @property
    def inpaints(self) -> bool:
        """True for the networks that fill holes."""
        return self._inpaints

    def fill_windows(self, call: FillCall) -> UInt8[np.ndarray, "P M S S 3"]:
        """Draw the hidden pixels of windows. Raise UserError without inpainting networks."""
        if not self._inpaints:
            raise UserError(
                "model: expected GLIDE's inpainting networks to fill holes (import glide-inpaint), got those that "
                "sample whole images"
            )
        for prompt, one in zip(call.prompts, call.options, strict=True):
            check_diffusion_options(Request(prompt, one))
        known = KnownSizes(known_at(call, self.file.base_side), known_at(call, self.file.side))
        guidance = jnp.asarray([one.guidance for one in call.options], jnp.float32)
        guided = any(one.guidance != 1.0 for one in call.options)
        pixels = self._call([str(one) for one in call.prompts], call.keys, guidance, guided, known)
        return np.asarray(pixels).reshape(call.windows.shape)

    def _pixels(self, call: DrawCall) -> UInt8[Array, "B S S 3"]:
        return self._call(call.prompts, call.keys, call.guidance, call.guided, None)

    def _call(
        self,
        prompts: list[str],
        keys: Key[Array, "P M"],
        guidance: Float[Array, " P"],
        guided: bool,
        known: KnownSizes | None,
    ) -> UInt8[Array, "B S S 3"]:
        text, empty = (read_prompts(self.prompts.tokenizer, some) for some in (prompts, [""]))
        ids = None if self.guide_text is None else jnp.asarray(self.guide_text.encode_batch(prompts))
        return self._sample(
            text, empty, keys, guidance, known, ids, file=self.file, guided=guided, clip_scale=self.clip_scale
        )
