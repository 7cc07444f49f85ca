"""The interface of all samplers, the noise that they draw, and the one scan that they run.

A sampler is a frozen dataclass of a config with a pure method ``sample``. It scans once over the steps, so that the
network is compiled once per call in the loop's body.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Int, Key
from dalle_jax.diffusion.levels import Levels, NoiseLevel
from dalle_jax.diffusion.parameterization import Denoiser, Parameterization

Carry = TypeVar("Carry")
Row = TypeVar("Row")


class KeyedNoise(NamedTuple):
    """Noise from a key per row, so that an image is the same in any batch; ``temperature`` scales it."""

    keys: Key[Array, " B"]
    temperature: float | Float[Array, ""] = 1.0

    def at(self, step: Int[Array, ""], x: Float[Array, " B *shape"]) -> Float[Array, " B *shape"]:
        """Draw the noise of a step; step 0 differs from ``initial_noise``."""
        draw = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step + 1), x.shape[1:]))
        return self.temperature * draw(self.keys)


class RecordedNoise(NamedTuple):
    """Noise that was drawn elsewhere, by step: for comparison with other implementations."""

    values: Float[Array, " steps B *shape"]

    def at(self, step: Int[Array, ""], x: Float[Array, " B *shape"]) -> Float[Array, " B *shape"]:
        """Return the noise of a step."""
        del x
        return self.values[step]


StepNoise: TypeAlias = KeyedNoise | RecordedNoise


@runtime_checkable
class Sampler(Protocol):
    """A method to go from noise to data."""

    def sample(
        self,
        denoise: Denoiser,
        levels: Levels,
        x: Float[Array, " B *shape"],
        noise: StepNoise,
        parameterization: Parameterization,
    ) -> Float[Array, " B *shape"]:
        """Return x at the last level, from ``x`` at the first. Deterministic samplers do not read ``noise``."""
        ...


class StepInfo(NamedTuple):
    """The scanned values of one step: its number, the level of all rows, and the sampler's coefficients."""

    number: Int[Array, ""]
    level: NoiseLevel
    coefficients: tuple[Float[Array, "..."], ...]


def scan_steps(
    step: Callable[[Carry, StepInfo], Carry],
    start: Carry,
    rows: int,
    levels: Levels,
    coefficients: tuple[np.ndarray, ...],
) -> Carry:
    """Run ``step`` over the levels in one ``lax.scan``; coefficients [steps …] are cast from float64 once."""
    columns = (levels.times, levels.alphas[:-1], levels.sigmas[:-1], *coefficients)
    scanned = tuple(jnp.asarray(column, jnp.float32) for column in columns)

    def body(carry: Carry, values: tuple[Array, tuple[Array, ...]]) -> tuple[Carry, None]:
        index, (time, alpha, sigma, *rest) = values
        level = NoiseLevel(*(jnp.broadcast_to(one, (rows,)) for one in (time, alpha, sigma)))
        return step(carry, StepInfo(index, level, tuple(rest))), None

    return jax.lax.scan(body, start, (jnp.arange(levels.steps), scanned))[0]
