"""Training a VQGAN: a tokenizer against a discriminator that looks at patches, with a perceptual distance."""

import sys
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax import storage
from dalle_jax.arrays import Array, Float, Key
from dalle_jax.config.errors import UserError
from dalle_jax.images.pixels import to_float
from dalle_jax.layers.conv_blocks import Conv, convolve
from dalle_jax.losses.adversarial import (
    adaptive_weight,
    discriminator_factor,
    hinge_loss,
    pyramid_distance,
)
from dalle_jax.losses.quantization import commitment, entropy_loss, perplexity, reconstruction, usage
from dalle_jax.models.lpips import Lpips
from dalle_jax.models.patch_discriminator import Discriminator, DiscriminatorConfig
from dalle_jax.models.vqgan import Vqgan, VqganConfig, VqganQuantized, from_range, to_range
from dalle_jax.pipelines.load.models import load_lpips
from dalle_jax.tasks.reconstruct_images import ReconstructImages, check_size
from dalle_jax.train.task import Batch, MetricSums, Objective, WholeBatchOnly


@dataclass(frozen=True)
class Pyramid:
    """A perceptual distance of ours without trained weights: losses/adversarial.py."""

    levels: int = 3
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise ValueError(f"levels: expected at least 1, got {self.levels}")


@dataclass(frozen=True)
class ImportedLpips:
    """LPIPS from the folder where ``import lpips`` put it; ``otherwise`` is taken, and said, where there is none."""

    folder: str
    weight: float = 1.0
    otherwise: Pyramid | None = None


@dataclass(frozen=True)
class Adversary:
    """The discriminator, and how much the tokenizer minds it.

    It plays no part before step ``start``. Its weight is multiplied by the ratio of gradients on the last layer, or
    "fixed" (LlamaGen's 0.5). The defaults are those of taming's ImageNet config.
    """

    network: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    start: int = 250_001
    weight: float = 0.8
    balance: Literal["adaptive", "fixed"] = "adaptive"


class Players(nnx.Module):
    """The two networks that are trained against each other."""

    def __init__(self, generator: Vqgan, discriminator: Discriminator):
        self.generator, self.discriminator = generator, discriminator


@dataclass(frozen=True)
class TokenizeImagesGan(ReconstructImages):
    """Esser et al. 2021 (arXiv 2012.09841, sections 3.1 and 4), over values in the tokenizer's range.

    The tokenizer minimises ``l1 mean |x - y| + l2 mean (x - y)^2 + perceptual + codebook mean (e - sg z)^2 +
    commitment mean (sg e - z)^2 + entropy gap - w mean D(y)``, z what is quantised and e its codes' vectors; then the
    discriminator the hinge loss. ``codebook`` 0.25 and ``commitment`` 1 are taming's (whose beta of 0.25 stands, in the
    form in which its weights were trained, on the codebook's term); LlamaGen has them the other way round. ``entropy``
    weighs losses/quantization.py's entropy_loss at ``entropy_temperature``.
    """

    model: VqganConfig
    image_size: int
    perceptual: ImportedLpips | Pyramid
    adversary: Adversary = field(default_factory=Adversary)
    l1: float = 1.0
    l2: float = 0.0
    codebook: float = 0.25
    commitment: float = 1.0
    entropy: float = 0.0
    entropy_temperature: float = 0.01

    prefix = "generator."

    def __post_init__(self) -> None:
        check_size(self.image_size, self.model.downsample)
        if isinstance(self.fallback, Pyramid) and self.image_size % 2 ** (self.fallback.levels - 1):
            raise ValueError(
                f"perceptual: a pyramid of {self.fallback.levels} levels halves {self.image_size} px to no whole number"
            )

    @property
    def fallback(self) -> Pyramid | None:
        """What stands in for LPIPS, if anything may."""
        return self.perceptual if isinstance(self.perceptual, Pyramid) else self.perceptual.otherwise

    def tokenizer_of(self, module: Players) -> Vqgan:
        """The generator."""
        return module.generator

    def init(self, rngs: nnx.Rngs) -> Players:
        """A new tokenizer and a new discriminator."""
        return Players(self.model.build(rngs), self.adversary.network.build(rngs))

    def frozen(self) -> Lpips | None:
        """LPIPS, or None for a pyramid, which is said on standard error."""
        if isinstance(self.perceptual, ImportedLpips):
            folder = storage.place(self.perceptual.folder)
            if (folder / "model.gin").is_file():
                return load_lpips(folder)
            missing = f"task.perceptual.folder: expected LPIPS's weights in {folder}, found none"
            if self.fallback is None:
                raise UserError(
                    f"{missing}; import them (python -m dalle_jax import lpips SOURCE {folder}) or name what to train "
                    "with instead: task.perceptual.otherwise = @Pyramid"
                )
            print(f"dalle-jax: WARNING: {missing}", file=sys.stderr, flush=True)
        print(
            "dalle-jax: WARNING: the perceptual distance is Pyramid, which is ours and has no trained weights, and NOT "
            "LPIPS: images will be less sharp than published ones",
            file=sys.stderr,
            flush=True,
        )
        return None

    def objectives(self) -> tuple[Objective, ...]:
        """The tokenizer's, and the discriminator's with what the tokenizer then draws."""
        generator = nnx.All(nnx.Param, nnx.PathContains("generator"))
        discriminator = nnx.All(nnx.Param, nnx.PathContains("discriminator"))
        whole = WholeBatchOnly(
            "the discriminator's batch normalisation takes its statistics, and the adaptive weight its ratio, from the "
            "whole batch"
        )
        return (
            Objective("generator", generator, self.generator_loss, microbatches=whole),
            Objective("discriminator", discriminator, self.discriminator_loss, microbatches=whole),
        )

    def generator_loss(
        self, module: Players, frozen: Lpips | None, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """The tokenizer's loss.

        The images' gradients of both of its losses over images are found first, once each; they give the adaptive
        weight and then, sent back together, the parameters' gradient.
        """
        del key
        generator = module.generator
        pixels = to_float(batch["pixels"])
        values = to_range(self.model, pixels)
        quantized = generator.quantize(generator.latents(values))
        inputs = generator.decoder.before_last(generator.out_of_codes(quantized.vectors))
        drawn = generator.decoder.output(inputs).astype(jnp.float32)  # [B H W C]
        still = jax.lax.stop_gradient(drawn)
        like = jax.value_and_grad(lambda drawn: self.unlikeness(frozen, values, drawn))
        fool = jax.value_and_grad(lambda drawn: -module.discriminator(drawn).mean())
        (unlikeness, of_likeness), (fooling, of_fooling) = like(still), fool(still)
        weight = jnp.asarray(self.adversary.weight)
        if self.adversary.balance == "adaptive":
            last, inputs = generator.decoder.output, jax.lax.stop_gradient(inputs)
            weight *= adaptive_weight(*(on_kernel(last, inputs, one) for one in (of_likeness, of_fooling)))
        weight *= discriminator_factor(step, self.adversary.start)
        sent_back = (drawn * jax.lax.stop_gradient(of_likeness + weight * of_fooling)).sum()
        codebook = self.codebook_loss(quantized)
        total = jax.lax.stop_gradient(unlikeness + weight * fooling)
        loss = total + codebook + sent_back - jax.lax.stop_gradient(sent_back)
        histogram = jnp.zeros(generator.codebook_size).at[quantized.codes.reshape(-1)].add(1.0)
        figures = {
            "loss": loss,
            "mse": jnp.square(pixels - from_range(self.model, drawn)).mean(),
            "unlikeness": unlikeness,
            "codebook/loss": codebook,
            "codebook/perplexity": perplexity(histogram),
            "codebook/usage": usage(histogram),
            "adversary/fooling": fooling,
            "adversary/weight": weight,
        }
        return loss, {name: (jax.lax.stop_gradient(value), jnp.ones(())) for name, value in figures.items()}

    def discriminator_loss(
        self, module: Players, frozen: Lpips | None, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """The hinge loss, 0 before the discriminator plays."""
        del frozen, key
        values = to_range(self.model, to_float(batch["pixels"]))
        generator = module.generator
        quantized = generator.quantize(generator.latents(values))
        drawn = jax.lax.stop_gradient(generator.decoder(generator.out_of_codes(quantized.vectors)))
        real, fake = module.discriminator(values), module.discriminator(drawn)
        loss = discriminator_factor(step, self.adversary.start) * hinge_loss(real, fake)
        one = jnp.ones(())
        return loss, {
            "discriminator/loss": (loss, one),
            "discriminator/real": (real.mean(), one),
            "discriminator/fake": (fake.mean(), one),
        }

    def unlikeness(
        self, frozen: Lpips | None, values: Float[Array, "B H W C"], drawn: Float[Array, "B H W C"]
    ) -> Float[Array, ""]:
        """Pixel losses and the perceptual distance, which sees values in -1..1."""
        pixels = reconstruction(values, drawn, absolute=self.l1, squared=self.l2)
        both = (values, drawn) if self.model.pixel_range == "-1..1" else (2 * values - 1, 2 * drawn - 1)
        if frozen is not None:
            return pixels + self.perceptual.weight * frozen(*both).mean()
        if self.fallback is None:
            raise ValueError("no LPIPS was given, and nothing that may stand in for it")
        return pixels + self.fallback.weight * pyramid_distance(*both, levels=self.fallback.levels).mean()

    def codebook_loss(self, quantized: VqganQuantized) -> Float[Array, ""]:
        """What moves codes to inputs, inputs to codes, and both to be used evenly."""
        loss = self.codebook * commitment(quantized.nearest, quantized.inputs)
        loss += self.commitment * commitment(quantized.inputs, quantized.nearest)
        if self.entropy:
            loss += self.entropy * entropy_loss(quantized.distances, self.entropy_temperature)
        return loss


def on_kernel(conv: Conv, inputs: Float[Array, "B H W C"], gradient: Float[Array, "B H W F"]) -> Float[Array, "..."]:
    """The gradient of a convolution's kernel, of stride 1, from that of what it gave."""
    _, back = jax.vjp(lambda kernel: convolve(inputs.astype(conv.dtype), kernel), conv.kernel[...])
    return back(gradient.astype(conv.dtype))[0]
