"""Choices of a few timesteps of a trained process to sample with: a closed union of small dataclasses.

``timesteps(steps)`` returns the kept indices of a process of ``steps`` timesteps, in ascending order.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dalle_jax.arrays import Int


@dataclass(frozen=True)
class SectionSteps:
    """Sections of equal length, with ``counts[i]`` evenly spaced timesteps in section i (guided-diffusion, GLIDE).

    GLIDE's "100" is ``SectionSteps((100,))`` and its "10,15,20" is ``SectionSteps((10, 15, 20))``.
    """

    counts: tuple[int, ...]

    def timesteps(self, steps: int) -> Int[np.ndarray, " kept"]:
        """Return the kept timesteps."""
        if not self.counts or min(self.counts) < 1:
            raise ValueError(f"counts: expected at least one section of at least 1 timestep, got {self.counts}")
        length, longer = divmod(steps, len(self.counts))
        kept: list[int] = []
        start = 0
        for section, count in enumerate(self.counts):
            size = length + (section < longer)
            if size < count:
                raise ValueError(f"counts: expected at most {size} timesteps in section {section}, got {count}")
            stride = (size - 1) / (count - 1) if count > 1 else 1.0
            position = 0.0
            for _ in range(count):
                kept.append(start + round(position))
                position += stride
            start += size
        return np.unique(np.array(kept, np.int64))


@dataclass(frozen=True)
class Fast27Steps:
    """GLIDE's "fast27" for the upsampler: sections 10, 10, 3, 2, 2, with the last timestep replaced by steps - 3."""

    def timesteps(self, steps: int) -> Int[np.ndarray, " kept"]:
        """Return the kept timesteps."""
        kept = SectionSteps((10, 10, 3, 2, 2)).timesteps(steps)
        return np.unique(np.append(kept[kept != steps - 1], steps - 3))


@dataclass(frozen=True)
class StrideSteps:
    """Timesteps 0, k, 2k, … for the integer k that gives ``count`` of them (arXiv 2010.02502, appendix D.2)."""

    count: int

    def timesteps(self, steps: int) -> Int[np.ndarray, " kept"]:
        """Return the kept timesteps."""
        for stride in range(1, steps + 1):
            if len(range(0, steps, stride)) == self.count:
                return np.arange(0, steps, stride, dtype=np.int64)
        raise ValueError(
            f"count: expected the number of timesteps that a whole stride keeps of {steps}, "
            f"such as a divisor of {steps}, got {self.count}"
        )


@dataclass(frozen=True)
class RoundedSteps:
    """Karlo's timesteps: round(i (steps - 1) / (count - 1)), halves to even (UnCLIPScheduler of diffusers)."""

    count: int

    def timesteps(self, steps: int) -> Int[np.ndarray, " kept"]:
        """Return the kept timesteps."""
        if not 2 <= self.count <= steps:
            raise ValueError(f"count: expected between 2 and {steps} timesteps, got {self.count}")
        return np.round(np.arange(self.count) * ((steps - 1) / (self.count - 1))).astype(np.int64)


StepSpacing: TypeAlias = SectionSteps | Fast27Steps | StrideSteps | RoundedSteps


def parse_spacing(text: str) -> StepSpacing:
    """Parse GLIDE's notation: "100", "10,15,20", "fast27" or "ddim25"."""
    if text == "fast27":
        return Fast27Steps()
    if text.startswith("ddim") and text[4:].isdecimal():
        return StrideSteps(int(text[4:]))
    counts = text.split(",")
    if not all(one.strip().isdecimal() for one in counts):
        raise ValueError(f'spacing: expected "100", "10,15,20", "fast27" or "ddim25", got {text!r}')
    return SectionSteps(tuple(map(int, counts)))
