"""Guesses of codes that parallel decoding has not drawn yet (sampling/slots.py)."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Int
from dalle_jax.sampling.autoregressive import Settings, draw


class Forecast(NamedTuple):
    """Logits of the T codes after a code, as guesses, and the weight of the Gumbel noise of each of them."""

    logits: Float[Array, "B T K"]
    noise: Float[Array, " T"]


def with_guesses(
    forecast: Callable[[Float[Array, "B D"], Int[Array, " B"]], Forecast | None],
    noise_of: Callable[[Int[Array, "B T"]], Float[Array, "B T K"]],
    settings: Settings,
    places: Int[Array, "B W"],
    outputs: Float[Array, "B W D"],
    drawn: Int[Array, "B W"],
    accepted: Int[Array, " B"],
) -> Int[Array, "B F"]:
    """Return the codes ``drawn`` at ``places``, and guesses of the W - 1 codes after them; F = 2 W - 1.

    The guesses equal the last code. If there are forecasting heads, those at the last place guess first. The first
    head at the last final code, at index ``accepted - 1``, also guesses the next code, whose input was wrong.
    ``forecast`` is that of ``SlotDecoder``, ``noise_of`` returns the noise of codes, and ``outputs`` are those of the
    prompts without the empty ones.
    """
    window, rows = drawn.shape[1], jnp.arange(len(drawn))

    def guess(index: Int[Array, " B"], most: int) -> Int[Array, "B T"] | None:
        """Guess up to ``most`` codes after those at ``index``."""
        found = forecast(outputs[rows, index], drawn[rows, index])
        if found is None:
            return None
        logits, weights = found.logits[:, :most], found.noise[:most, None]
        ahead = places[rows, index][:, None] + 1 + jnp.arange(logits.shape[1])
        return draw(logits, weights * noise_of(ahead), settings)

    if window == 1:
        return drawn
    beyond = guess(jnp.full_like(accepted, window - 1), window - 1)
    guesses = drawn[:, -1:] if beyond is None else beyond
    rest = jnp.broadcast_to(guesses[:, -1:], (len(drawn), window - 1 - guesses.shape[1]))
    found = jnp.concatenate([drawn, guesses, rest], axis=1)
    following = guess(accepted - 1, 1)
    return found if following is None else found.at[rows, accepted].set(following[:, 0])
