"""A diffusion sampler as a stochastic policy: the Gaussian of each step, its log-density and its KL.

Each step of ``Ddim`` with eta > 0 draws ``x' ~ N(mean(x), s^2)``. The steps of a sample are the actions of an episode
whose reward is that of the image (DDPO, Black et al. 2023, arXiv 2305.13301, section 4.2).

B rows   S steps   k chosen steps
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Int, Key
from dalle_jax.diffusion.levels import Levels, NoiseLevel, per_row
from dalle_jax.diffusion.parameterization import Denoiser, Parameterization
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.sampler import KeyedNoise


class StepGaussian(NamedTuple):
    """The distribution N(mean, deviation^2) of each row's next x, with one deviation per row."""

    mean: Float[Array, " B *shape"]
    deviation: Float[Array, " B"]

    def log_prob(self, following: Float[Array, " B *shape"]) -> Float[Array, " B"]:
        """Return the log-density of the next x, summed over its values. Where the deviation is 0 it is not finite."""
        sizes = following[0].size
        squared = _row_sums(jnp.square(following - self.mean))
        spread = jnp.square(self.deviation)
        return -squared / (2 * spread) - sizes * (jnp.log(self.deviation) + 0.5 * np.log(2 * np.pi))

    def kl(self, other_mean: Float[Array, " B *shape"]) -> Float[Array, " B"]:
        """Return the KL in nats to a Gaussian of the same deviation: |mean - other|^2 / (2 s^2)."""
        return _row_sums(jnp.square(self.mean - other_mean)) / (2 * jnp.square(self.deviation))


class Path(NamedTuple):
    """The x before and after chosen steps of each row, and the x after the last step."""

    before: Float[Array, " B k *shape"]
    after: Float[Array, " B k *shape"]
    last: Float[Array, " B *shape"]


class StepPolicy:
    """The steps of ``Ddim(eta)`` over some levels. ``random_steps`` are those that draw noise.

    A step to data draws none, since its deviation is 0. Raise ``ValueError`` if no step does.
    """

    def __init__(self, levels: Levels, eta: float, parameterization: Parameterization):
        self.levels, self.parameterization = levels, parameterization
        self._of_x0, self._of_noise, self._of_new = Ddim(eta).coefficients(levels)
        self.random_steps: Int[np.ndarray, " R"] = np.flatnonzero(self._of_new > 0)
        if not len(self.random_steps):
            raise ValueError(f"eta: expected more than 0, so that steps draw noise, got {eta}")

    def step(self, denoise: Denoiser, x: Float[Array, " B *shape"], step: Int[Array, " B"]) -> StepGaussian:
        """Return the distribution after step ``step`` of each row (arXiv 2010.02502, equation 12)."""

        def at(values: np.ndarray) -> Float[Array, " B"]:
            return jnp.asarray(values, jnp.float32)[step]

        level = NoiseLevel(at(self.levels.times), at(self.levels.alphas[:-1]), at(self.levels.sigmas[:-1]))
        found = self.parameterization.estimate(denoise(x, level), x, level)
        mean = per_row(at(self._of_x0), x) * found.x0 + per_row(at(self._of_noise), x) * found.noise
        return StepGaussian(mean, at(self._of_new))

    def sample(
        self,
        denoise: Denoiser,
        start: Float[Array, " B *shape"],
        keys: Key[Array, " B"],
        chosen: Int[Array, "B k"],
    ) -> Path:
        """Sample all steps as ``Ddim.sample`` does with ``KeyedNoise(keys)``, and keep the ``chosen`` ones."""
        rows, noise = start.shape[0], KeyedNoise(keys)
        empty = jnp.zeros((*chosen.shape, *start.shape[1:]), jnp.float32)

        def body(carry: Path, number: Int[Array, ""]) -> tuple[Path, None]:
            x = carry.last
            found = self.step(denoise, x, jnp.broadcast_to(number, (rows,)))
            following = found.mean + per_row(found.deviation, x) * noise.at(number, x)
            mask = (chosen == number).reshape(*chosen.shape, *(1,) * (x.ndim - 1))
            before = jnp.where(mask, x[:, None], carry.before)
            return Path(before, jnp.where(mask, following[:, None], carry.after), following), None

        first = Path(empty, empty, start.astype(jnp.float32))
        return jax.lax.scan(body, first, jnp.arange(self.levels.steps))[0]

    def choose(self, keys: Key[Array, " B"], count: int) -> Int[Array, "B k"]:
        """Choose ``count`` different random steps for each row, from its key, in rising order."""
        steps = jnp.asarray(self.random_steps, jnp.int32)

        def of_row(key: Key[Array, ""]) -> Int[Array, " k"]:
            return jnp.sort(jax.random.permutation(key, steps)[:count])

        return jax.vmap(of_row)(keys)


def _row_sums(values: Float[Array, " B *shape"]) -> Float[Array, " B"]:
    return values.reshape(values.shape[0], -1).sum(axis=-1)
