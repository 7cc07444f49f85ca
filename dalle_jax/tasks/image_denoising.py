"""The common part of the tasks that train a denoiser of images: the loss, importance sampling, the trained module."""

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Int, Key, PyTree
from dalle_jax.diffusion.diffusion_training import DiffusionTraining, ImportanceTimes, levels_at
from dalle_jax.diffusion.importance import LossHistory
from dalle_jax.diffusion.levels import NoiseLevel, add_noise
from dalle_jax.diffusion.parameterization import ModelOutput, to_estimate
from dalle_jax.diffusion.trained_diffusion import TrainedDiffusion
from dalle_jax.models.decoders.pixel_decoder import PixelDecoderConfig
from dalle_jax.models.decoders.upsampler import UpsamplerConfig
from dalle_jax.models.spaces.space import LatentMoments, LatentStatistics
from dalle_jax.tasks.batches import summed
from dalle_jax.train.task import Batch, Frozen, LossAndSums, MetricSums, Objective, UpdateOnce

HIGH_NOISE = 0.8
"""The time of the evaluation's errors: at high noise the conditions decide the image."""
PREFIX = "network."
"""The path of the network within the trained module."""

Network = TypeVar("Network", bound=nnx.Module)
Condition = TypeVar("Condition", bound=PyTree)


class TimestepStatistic(nnx.Variable):
    """A statistic of each timestep, which is not a parameter."""


class TrainedDenoiser(nnx.Module, Generic[Network]):
    """A network and, with importance sampling, the last losses of each timestep."""

    def __init__(self, network: Network, history: LossHistory | None):
        self.network = network
        self.losses = None if history is None else TimestepStatistic(history.losses, axes=(None, None))
        self.counts = None if history is None else TimestepStatistic(history.counts, axes=(None,))

    @property
    def history(self) -> LossHistory | None:
        """The last losses of each timestep, or None without importance sampling."""
        if self.losses is None or self.counts is None:
            return None
        return LossHistory(self.losses[...], self.counts[...])

    def add(self, index: Int[Array, " B"], losses: Float[Array, " B"]) -> None:
        """Add the losses of a batch to the history."""
        if (history := self.history) is not None and self.losses is not None and self.counts is not None:
            self.losses[...], self.counts[...] = history.add(index, losses)


@runtime_checkable
class DenoisingConfig(Protocol):
    """The settings that ``ImageDenoising`` reads."""

    @property
    def model(self) -> PixelDecoderConfig | UpsamplerConfig:
        """The config of the network."""
        ...

    @property
    def training(self) -> DiffusionTraining:
        """The loss, and the times that it is computed at."""
        ...


class ImageDenoising(ABC, Generic[Network, Condition]):
    """The loss of a network that predicts from noised images and conditions."""

    config: DenoisingConfig

    @abstractmethod
    def build(self, rngs: nnx.Rngs) -> Network:
        """Create the network."""

    @abstractmethod
    def inputs(
        self, frozen: Frozen, batch: Batch, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "B H W 3"], Condition]:
        """Return images in -1 .. 1 and their conditions. ``key`` drops and corrupts; None is for evaluation."""

    def encode(
        self, module: "TrainedDenoiser[Network]", frozen: Frozen, images: Float[Array, "B H W 3"]
    ) -> Float[Array, "B h w c"]:
        """Return x0, the array that is denoised, of images in -1 .. 1: by default the images."""
        del module, frozen
        return images

    @abstractmethod
    def predict(
        self,
        network: Network,
        x: Float[Array, "B h w c"],
        level: NoiseLevel,
        condition: Condition,
        key: Key[Array, ""] | None,
    ) -> ModelOutput:
        """Return the network's prediction; ``key`` draws its dropout."""

    @property
    def diffusion(self) -> TrainedDiffusion:
        """The diffusion of the network."""
        return self.config.model.diffusion

    def init(self, rngs: nnx.Rngs) -> TrainedDenoiser[Network]:
        """Create the network and, with importance sampling, an empty history."""
        times, history = self.config.training.times, None
        if isinstance(times, ImportanceTimes):
            history = LossHistory.empty(self.diffusion.discrete().steps, times.kept)
        return TrainedDenoiser(self.build(rngs), history)

    def statistics_of(self, network: Network) -> LatentStatistics | None:
        """Return the statistics of the latents that training measures, or None: by default none."""
        del network
        return None

    @property
    def measures_latents(self) -> bool:
        """True if ``statistics_of`` returns statistics."""
        return False

    def objectives(self) -> tuple[Objective, ...]:
        """Return the one objective. Histories and statistics are updated once for all microbatches of a step."""
        once = UpdateOnce(self.weighed, self.update) if self._is_importance or self.measures_latents else None
        return (Objective("denoise", nnx.Param, self.loss, microbatches=once),)

    @property
    def _is_importance(self) -> bool:
        return isinstance(self.config.training.times, ImportanceTimes)

    def loss(
        self, module: TrainedDenoiser[Network], frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> LossAndSums:
        """Return the mean loss at drawn levels, and update the history of losses and the statistics of latents."""
        loss, sums, rows = self.weighed(module, frozen, batch, key, step)
        self.update(module, rows, key)
        return loss, sums

    def update(self, module: TrainedDenoiser[Network], rows: PyTree, key: Key[Array, ""]) -> None:
        """Add the losses of a whole batch to the history, and its moments to the statistics of latents."""
        del key
        losses, moments = rows
        if self._is_importance:
            module.add(*losses)
        if (statistics := self.statistics_of(module.network)) is not None:
            statistics.add(moments)

    def weighed(
        self, module: TrainedDenoiser[Network], frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums, PyTree]:
        """Return the mean loss, its metrics, the timestep and the loss of each row, and the moments of its latents."""
        del step
        input_key, level_key, noise_key, dropout_key = jax.random.split(key, 4)
        images, condition = self.inputs(frozen, batch, input_key)
        x0 = jax.lax.stop_gradient(self.encode(module, frozen, images))
        training, diffusion = self.config.training, self.diffusion
        drawn = training.draw(level_key, x0.shape[0], diffusion, module.history)

        def denoise(x: Array, level: NoiseLevel) -> ModelOutput:
            return self.predict(module.network, x, level, condition, dropout_key)

        losses = training.losses(denoise, x0, jax.random.normal(noise_key, x0.shape), drawn, diffusion)
        loss = (drawn.weight * losses).mean()
        by_time = (drawn.timestep, jax.lax.stop_gradient(losses)) if self._is_importance else ()
        statistics = self.statistics_of(module.network)
        moments = () if statistics is None else LatentMoments.of(statistics.denormalise(x0))
        return loss, {"loss": (jax.lax.stop_gradient(loss), jnp.ones(()))}, (by_time, moments)

    def errors(
        self, module: TrainedDenoiser[Network], x0: Float[Array, "B h w c"], condition: Condition, batch: Batch
    ) -> tuple[Array, Array]:
        """Sum the mean squared errors of x0 at high noise; the noise is that of a fixed key at every step."""
        level = self.diffusion.level(jnp.full(x0.shape[0], HIGH_NOISE))
        noise = jax.random.normal(jax.random.key(0), x0.shape)
        x = add_noise(x0, noise, level)
        output = self.predict(module.network, x, level, condition, None)
        found = to_estimate(output.prediction, self.diffusion.prediction, x, level).x0
        found = found if self.measures_latents else found.clip(-1, 1)
        return summed(jnp.square(found - x0).mean(axis=(1, 2, 3)), batch)

    def evaluation_loss(
        self, module: TrainedDenoiser[Network], x0: Float[Array, "B h w c"], condition: Condition, batch: Batch
    ) -> tuple[Array, Array]:
        """Sum the losses at times spread evenly over the rows, with the noise of a fixed key."""
        count = x0.shape[0]
        drawn = levels_at(self.diffusion, (jnp.arange(count) + 0.5) / count)

        def denoise(x: Array, level: NoiseLevel) -> ModelOutput:
            return self.predict(module.network, x, level, condition, None)

        noise = jax.random.normal(jax.random.key(1), x0.shape)
        return summed(self.config.training.losses(denoise, x0, noise, drawn, self.diffusion), batch)
