"""Training of a VQGAN: an image tokenizer with a patch discriminator and a perceptual distance."""

import sys
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax import storage
from dalle_jax.arrays import Array, Float, Key
from dalle_jax.config.errors import UserError
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.images.pixels import to_float
from dalle_jax.layers.conv_blocks import convolve
from dalle_jax.losses.adversarial import (
    adaptive_weight,
    hinge_loss,
    pyramid_distance,
)
from dalle_jax.losses.quantization import commitment, entropy_loss, reconstruction
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.lpips import Lpips
from dalle_jax.models.patch_discriminator import Discriminator, DiscriminatorConfig
from dalle_jax.models.vqgan import Vqgan, VqganConfig, VqganQuantized, from_range, to_range
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.models import load_lpips
from dalle_jax.tasks.batches import pixel_spec
from dalle_jax.tasks.frozen_networks import LPIPS
from dalle_jax.tasks.precomputed_codes import refuse_precomputed
from dalle_jax.tasks.tokenizers.reconstruct_images import ImageReconstruction, check_size
from dalle_jax.train.task import Batch, Frozen, MetricSums, Objective, WholeBatchOnly


@dataclass(frozen=True)
class Pyramid:
    """Our own perceptual distance, over an image pyramid and without trained weights (losses/adversarial.py)."""

    levels: int = 3
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise ValueError(f"levels: expected at least 1, got {self.levels}")


@dataclass(frozen=True)
class ImportedLpips:
    """LPIPS with the weights in ``folder``, which the command ``import lpips`` wrote.

    If the folder has no weights, training prints a warning and uses ``otherwise``. If ``otherwise`` is None, missing
    weights are an error.
    """

    folder: str
    weight: float = 1.0
    otherwise: Pyramid | None = None


@dataclass(frozen=True)
class Adversary:
    """The discriminator and the weight of its loss in the image tokenizer's loss.

    The discriminator is used from step ``start`` on. With ``balance`` "adaptive", ``weight`` is multiplied by the ratio
    of the gradients of both losses on the decoder's last layer (``adaptive_weight``). With "fixed" it is not changed
    (LlamaGen, 0.5). The defaults are taming's for ImageNet.
    """

    network: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    start: int = 250_001
    weight: float = 0.8
    balance: Literal["adaptive", "fixed"] = "adaptive"


class Adversarial(NamedTuple):
    """The generator's adversarial loss, its weight, and the weighted gradient with respect to the images."""

    fooling: Float[Array, ""]
    weight: Float[Array, ""]
    of_images: Float[Array, "B H W C"]


class Players(nnx.Module):
    """The generator and the discriminator of a GAN."""

    def __init__(self, generator: Vqgan, discriminator: Discriminator):
        self.generator, self.discriminator = generator, discriminator


@dataclass(frozen=True)
class TokenizeImagesGan:
    """Settings of a VQGAN's training (Esser et al. 2021, arXiv 2012.09841, sections 3.1 and 4).

    Values x are in the range of the tokenizer, y is the reconstruction, z the input of the quantizer, e its code
    vectors, D the discriminator and sg the stop-gradient. The tokenizer minimises

        l1 mean |x - y| + l2 mean (x - y)^2 + perceptual + codebook mean (e - sg z)^2 + commitment mean (sg e - z)^2
        + entropy gap - w mean D(y)

    and the discriminator minimises the hinge loss. ``codebook`` 0.25 and ``commitment`` 1 are taming's values: its
    weights were trained with beta = 0.25 on the codebook's term. LlamaGen swaps the two. ``entropy`` weighs
    ``entropy_loss`` of losses/quantization.py at ``entropy_temperature``.
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

    def __post_init__(self) -> None:
        check_size(self.image_size, self.model.downsample)
        if self.model.quantizer != "nearest":
            raise ValueError(f"model.quantizer: expected 'nearest', which can be trained, got {self.model.quantizer!r}")
        levels = 1 if self.fallback is None else self.fallback.levels
        if self.image_size % 2 ** (levels - 1):
            raise ValueError(
                f"image_size: expected a multiple of {2 ** (levels - 1)}, for a pyramid of {levels} levels, got "
                f"{self.image_size}"
            )

    @property
    def fallback(self) -> Pyramid | None:
        """Return the perceptual distance that replaces missing LPIPS weights, or None if the config allows none."""
        return self.perceptual if isinstance(self.perceptual, Pyramid) else self.perceptual.otherwise

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch."""
        return {"pixels": pixel_spec(batch_size, self.image_size)}

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> "VqganReconstruction":
        """Load LPIPS. Raise ``UserError`` for data of precomputed codes."""
        del layout
        refuse_precomputed(self, manifest, "train it from images")
        return self.open_for_plan()

    def open_for_plan(self) -> "VqganReconstruction":
        """Load LPIPS, or warn that training uses a ``Pyramid`` instead."""
        return VqganReconstruction(self, self._load_lpips())

    def _load_lpips(self) -> Lpips | None:
        if isinstance(self.perceptual, ImportedLpips):
            folder = storage.place(self.perceptual.folder)
            if (folder / "model.gin").is_file():
                return load_lpips(folder)
            missing = f"task.perceptual.folder: expected LPIPS's weights in {folder}, found none"
            if self.fallback is None:
                raise UserError(
                    f"{missing}; import them (python -m dalle_jax import lpips SOURCE {folder}) or name a distance to "
                    "train with instead: task.perceptual.otherwise = @Pyramid"
                )
            print(f"dalle-jax: WARNING: {missing}", file=sys.stderr, flush=True)
        print(
            "dalle-jax: WARNING: the perceptual distance is Pyramid, which has no trained weights, and NOT LPIPS: "
            "images will be less sharp than with LPIPS",
            file=sys.stderr,
            flush=True,
        )
        return None


class VqganReconstruction(ImageReconstruction[TokenizeImagesGan, Players]):
    """The task that trains a VQGAN: its generator reconstructs images and is trained against its discriminator."""

    prefix = "generator."

    def __init__(self, config: TokenizeImagesGan, lpips: Lpips | None) -> None:
        if lpips is None and config.fallback is None:
            raise ValueError("lpips: expected a network, or a config with a Pyramid, got None")
        super().__init__(config)
        self.lpips = lpips

    def tokenizer_of(self, module: Players) -> ImageTokenizer:
        """Return the generator."""
        return module.generator

    def init(self, rngs: nnx.Rngs) -> Players:
        """Create the generator, then the discriminator."""
        return Players(self.config.model.build(rngs), self.config.adversary.network.build(rngs))

    def frozen(self) -> Frozen:
        """Return LPIPS, if it was loaded."""
        return {} if self.lpips is None else {LPIPS: self.lpips}

    def objectives(self) -> tuple[Objective, ...]:
        """Return the generator's objective, then the discriminator's, which sees the updated generator."""
        generator = nnx.All(nnx.Param, nnx.PathContains("generator"))
        discriminator = nnx.All(nnx.Param, nnx.PathContains("discriminator"))
        whole = WholeBatchOnly(
            "the discriminator's batch normalisation takes its statistics, and the adaptive weight its ratio, from the "
            "whole batch"
        )
        return (
            Objective("generator", generator, self.generator_loss, microbatches=whole),
            Objective(
                "discriminator",
                discriminator,
                self.discriminator_loss,
                microbatches=whole,
                starts=self.config.adversary.start,
            ),
        )

    def generator_loss(
        self, module: Players, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the loss of the generator.

        The gradients of the perceptual distance and of the adversarial loss with respect to the images are computed
        once. The adaptive weight is computed from them, and their weighted sum is backpropagated to the parameters.
        Before step ``adversary.start`` nothing of the adversarial loss is computed.
        """
        del key
        generator = module.generator
        pixels = to_float(batch["pixels"])
        values = to_range(self.config.model, pixels)
        quantized = generator.quantize(generator.latents(values))
        inputs = generator.decoder.before_last(generator.out_of_codes(quantized.vectors))
        drawn = generator.decoder.output(inputs).astype(jnp.float32)  # [B H W C]
        still = jax.lax.stop_gradient(drawn)
        like = jax.value_and_grad(lambda drawn: self.unlikeness(frozen, values, drawn))
        unlikeness, of_likeness = like(still)
        adversarial = self._adversarial_from_start(module, inputs, still, of_likeness, step)
        sent_back = (drawn * jax.lax.stop_gradient(of_likeness + adversarial.of_images)).sum()
        codebook = self.codebook_loss(quantized)
        total = jax.lax.stop_gradient(unlikeness + adversarial.weight * adversarial.fooling)
        loss = total + codebook + sent_back - jax.lax.stop_gradient(sent_back)
        histogram = jnp.zeros(generator.codebook_size).at[quantized.codes.reshape(-1)].add(1.0)
        figures = {
            "loss": loss,
            "mse": jnp.square(pixels - from_range(self.config.model, drawn)).mean(),
            "unlikeness": unlikeness,
            "codebook/loss": codebook,
            "codebook": histogram,
        }
        sums = {name: (jax.lax.stop_gradient(value), jnp.ones(())) for name, value in figures.items()}
        plays = (step >= self.config.adversary.start).astype(jnp.float32)
        fooling, weight = adversarial.fooling, adversarial.weight
        return loss, sums | {"adversary/fooling": (fooling, plays), "adversary/weight": (weight, plays)}

    def _adversarial_from_start(
        self,
        module: Players,
        inputs: Float[Array, "B H W F"],
        drawn: Float[Array, "B H W C"],
        of_likeness: Float[Array, "B H W C"],
        step: Array,
    ) -> "Adversarial":
        """Return the adversarial part of the generator's loss, or zeros before the discriminator plays.

        ``inputs`` are those of the decoder's last layer. Nothing is differentiated through the result.
        """
        adversary, last = self.config.adversary, module.generator.decoder.output
        inputs, kernel = jax.lax.stop_gradient((inputs, last.kernel[...]))

        def played() -> Adversarial:
            fooling, of_fooling = jax.value_and_grad(lambda drawn: -module.discriminator(drawn).mean())(drawn)
            weight = jnp.asarray(adversary.weight)
            if adversary.balance == "adaptive":
                gradients = (on_kernel(kernel, inputs.astype(last.dtype), one) for one in (of_likeness, of_fooling))
                weight *= adaptive_weight(*gradients)
            return Adversarial(fooling, weight, weight * of_fooling)

        def idle() -> Adversarial:
            return Adversarial(jnp.zeros(()), jnp.zeros(()), jnp.zeros_like(drawn))

        return played() if adversary.start <= 0 else jax.lax.cond(step >= adversary.start, played, idle)

    def discriminator_loss(
        self, module: Players, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the discriminator's hinge loss."""
        del frozen, key, step
        values = to_range(self.config.model, to_float(batch["pixels"]))
        generator = module.generator
        quantized = generator.quantize(generator.latents(values))
        drawn = jax.lax.stop_gradient(generator.decoder(generator.out_of_codes(quantized.vectors)))
        real, fake = module.discriminator(values), module.discriminator(drawn)
        loss = hinge_loss(real, fake)
        one = jnp.ones(())
        return loss, {
            "discriminator/loss": (loss, one),
            "discriminator/real": (real.mean(), one),
            "discriminator/fake": (fake.mean(), one),
        }

    def unlikeness(
        self, frozen: Frozen, values: Float[Array, "B H W C"], drawn: Float[Array, "B H W C"]
    ) -> Float[Array, ""]:
        """Return the pixel losses plus the perceptual distance, or plus its ``fallback`` without LPIPS weights.

        Both arguments are in the model's pixel range. They are converted to -1..1 for the perceptual distance.
        """
        pixels = reconstruction(values, drawn, absolute=self.config.l1, squared=self.config.l2)
        both = (values, drawn) if self.config.model.pixel_range == "-1..1" else (2 * values - 1, 2 * drawn - 1)
        lpips, fallback = frozen.get(LPIPS), self.config.fallback
        if isinstance(lpips, Lpips):
            return pixels + self.config.perceptual.weight * lpips(*both).mean()
        if fallback is None:
            raise ValueError(f"frozen: expected {LPIPS!r}, because the config has no Pyramid, got {sorted(frozen)}")
        return pixels + fallback.weight * pyramid_distance(*both, levels=fallback.levels).mean()

    def codebook_loss(self, quantized: VqganQuantized) -> Float[Array, ""]:
        """Return the weighted sum of the codebook loss, the commitment loss and the entropy loss."""
        loss = self.config.codebook * commitment(quantized.nearest, quantized.inputs)
        loss += self.config.commitment * commitment(quantized.inputs, quantized.nearest)
        if self.config.entropy:
            loss += self.config.entropy * entropy_loss(quantized.distances, self.config.entropy_temperature)
        return loss


def on_kernel(
    kernel: Float[Array, "k k C F"], inputs: Float[Array, "B H W C"], gradient: Float[Array, "B H W F"]
) -> Float[Array, "k k C F"]:
    """Return the gradient of a stride-1 convolution's kernel, given its inputs and the gradient of its output."""
    _, back = jax.vjp(lambda kernel: convolve(inputs, kernel), kernel)
    return back(gradient.astype(inputs.dtype))[0]
