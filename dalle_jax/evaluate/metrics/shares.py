"""Proportions with their 95 % confidence intervals."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Share:
    """A proportion: ``right`` outcomes of ``count``."""

    right: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.count:
            raise ValueError(f"expected 0 <= right <= count, got right = {self.right}, count = {self.count}")

    @property
    def value(self) -> float | None:
        """Return the proportion in [0, 1], or None if nothing was counted."""
        return self.right / self.count if self.count else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % Wilson score interval (Wilson 1927), or None if nothing was counted."""
        if not self.count:
            return None
        n, p = self.count, self.right / self.count
        centre = (p + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
        half = Z_95 / (1 + Z_95**2 / n) * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n * n))
        low = 0.0 if self.right == 0 else max(0.0, centre - half)
        high = 1.0 if self.right == self.count else min(1.0, centre + half)
        return low, high

    def __add__(self, other: "Share") -> "Share":
        return Share(self.right + other.right, self.count + other.count)


def share_of(outcomes: Iterable[bool]) -> Share:
    """Count the true ``outcomes``."""
    listed = [bool(outcome) for outcome in outcomes]
    return Share(right=sum(listed), count=len(listed))
