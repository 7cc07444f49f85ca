"""Coefficients of our samplers by the references' own expressions, in their float32 or in float64.

The references subtract nearly equal float32 numbers: UnCLIPScheduler's last step multiplies x0 by 1 - 5e-4, not by 1.
``dtype`` float32 gives the recorded numbers, and float64 gives the numbers of our samplers.
"""

from dataclasses import dataclass

import numpy as np

from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.ddpm import Ddpm


def bars_of(levels, dtype):
    """The share of data's variance at each step, and at the step after it."""
    bars = (levels.alphas**2).astype(dtype)
    return bars[:-1], bars[1:]


@dataclass(frozen=True)
class RoundedDdpm(Ddpm):
    """Ancestral sampling with the arithmetic of diffusers' UnCLIPScheduler."""

    dtype: type = np.float32

    def coefficients(self, levels):
        (bars, previous), one = bars_of(levels, self.dtype), self.dtype(1)
        beta = one - bars / previous
        if self.dtype == np.float32 and previous[-1] == 1:  # read from the table of beta, not computed
            beta[-1] = self.dtype(1 - levels.alphas[-2] ** 2)
        of_x0 = np.sqrt(previous) * beta / (one - bars)
        of_x = np.sqrt(one - beta) * (one - previous) / (one - bars)
        variance = (one - previous) / (one - bars) * beta
        small = np.log(np.maximum(variance, self.dtype(1e-20)))
        return of_x0, of_x, small, np.log(beta), (previous < 1).astype(self.dtype)


@dataclass(frozen=True)
class RoundedDdim(Ddim):
    """DDIM with the arithmetic of GLIDE's ``ddim_sample``."""

    dtype: type = np.float32

    def coefficients(self, levels):
        (bars, previous), one = bars_of(levels, self.dtype), self.dtype(1)
        added = self.dtype(self.eta) * np.sqrt((one - previous) / (one - bars)) * np.sqrt(one - bars / previous)
        return np.sqrt(previous), np.sqrt(one - previous - added**2), added
