"""Functions for editing with a diffusion model: known pixels, RePaint, partial noise and interpolation of latents."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float, Key
from dalle_jax.diffusion.levels import Levels, NoiseLevel, add_noise, initial_noise, per_row
from dalle_jax.diffusion.parameterization import (
    Denoiser,
    Estimate,
    ModelOutput,
    Parameterization,
    Prediction,
    from_estimate,
    to_estimate,
)
from dalle_jax.diffusion.samplers.ddpm import Ddpm, ReverseVariance
from dalle_jax.diffusion.samplers.sampler import StepInfo, scan_steps


def slerp(
    first: Float[Array, " B *shape"], second: Float[Array, " B *shape"], share: Float[Array, " B"]
) -> Float[Array, " B *shape"]:
    """Interpolate on the sphere, row by row: ``first`` at share 0, ``second`` at 1 (arXiv 2204.06125, section 3.2).

    The angle is between the rows as vectors; nearly parallel rows are interpolated linearly. The lengths of vectors of
    different length are interpolated linearly too.
    """
    shape, first, second = first.shape, first.reshape(first.shape[0], -1), second.reshape(second.shape[0], -1)
    lengths = [jnp.linalg.norm(one, axis=-1, keepdims=True) for one in (first, second)]
    one, other = (vector / jnp.maximum(length, 1e-12) for vector, length in zip((first, second), lengths, strict=True))
    at = share[:, None]
    angle = jnp.arccos(jnp.clip((one * other).sum(-1, keepdims=True), -1, 1))
    sine = jnp.sin(angle)
    parallel = sine < 1e-4
    safe = jnp.where(parallel, 1.0, sine)
    of_first = jnp.where(parallel, 1 - at, jnp.sin((1 - at) * angle) / safe)
    of_second = jnp.where(parallel, at, jnp.sin(at * angle) / safe)
    length = (1 - at) * lengths[0] + at * lengths[1]
    return (length * (of_first * one + of_second * other)).reshape(shape)


def paste(x: Array, known: Array, keep: Bool[Array, "..."]) -> Array:
    """Return ``known`` where ``keep`` is True, to the last bit, and ``x`` elsewhere."""
    return jnp.where(keep, known, x)


def keep_known(
    denoise: Denoiser, known: Float[Array, " B *shape"], keep: Bool[Array, "..."], prediction: Prediction
) -> Denoiser:
    """Inpaint with any sampler: replace x0 by the known pixels in every estimate (arXiv 2212.00490, equation 13).

    ``keep`` broadcasts against x and is True where pixels are known. The result holds them to rounding; ``paste`` makes
    them exact.
    """

    def kept(x: Array, level: NoiseLevel) -> ModelOutput:
        output = denoise(x, level)
        found = to_estimate(output.prediction.astype(jnp.float32), prediction, x, level)
        sigma = per_row(level.sigma, x)
        noise = (x - per_row(level.alpha, x) * known) / sigma
        estimate = Estimate(paste(found.x0, known, keep), paste(found.noise, noise, keep))
        return output._replace(prediction=from_estimate(estimate, prediction, level))

    return kept


def start_from(
    x0: Float[Array, " B *shape"], levels: Levels, step: int, keys: Key[Array, " B"]
) -> tuple[Float[Array, " B *shape"], Levels]:
    """Return x0 noised to the level of ``step``, and the levels from there on (SDEdit, arXiv 2108.01073, section 3)."""
    rest = levels.after(step)
    return add_noise(x0, initial_noise(keys, x0.shape[1:]), rest.first(x0.shape[0])), rest


@dataclass(frozen=True)
class RePaint:
    """Inpainting by replacement with resampling (Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1).

    After each reverse step the known pixels are replaced by the known image at that noise. The step is repeated
    ``resamplings`` times, each time from the result noised again. 1 is replacement alone. The cost is
    steps × resamplings forwards.
    """

    variance: ReverseVariance
    resamplings: int = 10

    def sample(
        self,
        denoise: Denoiser,
        levels: Levels,
        x: Float[Array, " B *shape"],
        keys: Key[Array, " B"],
        known: Float[Array, " B *shape"],
        keep: Bool[Array, "..."],
        parameterization: Parameterization,
    ) -> Float[Array, " B *shape"]:
        """Sample the unknown pixels; known ones stay to the last bit if sampling ends at data."""
        if self.resamplings < 1:
            raise ValueError(f"resamplings: expected at least 1, got {self.resamplings}")
        ddpm = Ddpm(self.variance)
        ratio = levels.alphas[:-1] / levels.alphas[1:]
        again = (levels.sigmas[:-1] ** 2 - ratio**2 * levels.sigmas[1:] ** 2) ** 0.5

        def step(x: Array, info: StepInfo) -> Array:
            *of_ddpm, next_alpha, next_sigma, of_x, of_noise = info.coefficients
            reverse_info = info._replace(coefficients=tuple(of_ddpm))

            def once(number: Array, x: Array) -> Array:
                fresh = _fresh_noise(keys, info.number * self.resamplings + number, x)
                x = jnp.where(number > 0, of_x * x + of_noise * fresh[0], x)
                reverse = ddpm.reverse(denoise(x, info.level), x, reverse_info, parameterization)
                moved = reverse.mean + of_ddpm[-1] * jnp.exp(0.5 * reverse.log_variance) * fresh[1]
                return paste(moved, next_alpha * known + next_sigma * fresh[2], keep)

            return jax.lax.fori_loop(0, self.resamplings, once, x)

        coefficients = (*ddpm.coefficients(levels), levels.alphas[1:], levels.sigmas[1:], ratio, again)
        return scan_steps(step, x.astype(jnp.float32), x.shape[0], levels, coefficients)


def _fresh_noise(keys: Key[Array, " B"], number: Array, x: Array) -> Float[Array, " 3 B *shape"]:
    """Draw the noise of noising again, of the reverse step and of the known pixels, from a key per row."""
    draw = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number + 1), (3, *x.shape[1:])), out_axes=1)
    return draw(keys)
