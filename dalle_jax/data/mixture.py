"""Mix several sources in one stream of examples by exact weights, as a pure function of the position."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.data.choices import SourceConfig
from dalle_jax.data.source import Example, Source

LONGEST = 100_000
"""Examples after which the pattern of sources begins again, at most."""


@dataclass(frozen=True)
class MixturePart:
    """One source of a mixture and its weight, relative to the other weights."""

    source: SourceConfig
    weight: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight: expected a positive number, got {self.weight}")


@dataclass(frozen=True)
class Mixture:
    """Sources by name. The share of each in the examples equals its share of the weights, exactly in each pattern.

    Weights of 0.95 and 0.05 make a pattern of twenty examples: nineteen of the first source and one of the second. Each
    source has its own epochs and shuffling, so a small source with a large weight repeats sooner.
    """

    parts: Mapping[str, MixturePart]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts: expected at least one, such as parts.NAME.source and parts.NAME.weight, got none")
        Interleaving(self.weights)

    @property
    def weights(self) -> tuple[float, ...]:
        """Return the weights in the order of the parts."""
        return tuple(part.weight for part in self.parts.values())


class Interleaving:
    """Which source each position takes, in turns as even as can be (smooth weighted round robin).

    Raises ValueError for weights that are not positive or have no short pattern.
    """

    def __init__(self, weights: Sequence[float]):
        if not weights or not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise ValueError(f"weights: expected positive numbers, got {tuple(weights)}")
        exact = [Fraction(repr(float(weight))) for weight in weights]
        scale = math.lcm(*(one.denominator for one in exact))
        whole = [int(one * scale) for one in exact]
        shared = math.gcd(*whole)
        self.turns = tuple(one // shared for one in whole)
        """How often each source comes in one pattern."""
        period = sum(self.turns)
        if period > LONGEST:
            raise ValueError(
                f"weights: expected simple shares, such as 0.95 and 0.05; {tuple(weights)} repeat only after "
                f"{period:,} examples, and {LONGEST:,} is the most"
            )
        credit = [0] * len(self.turns)
        counts = [0] * len(self.turns)
        self._part = np.zeros(period, np.int32)
        self._before = np.zeros(period, np.int64)
        for slot in range(period):
            credit = [have + turn for have, turn in zip(credit, self.turns, strict=True)]
            part = max(range(len(credit)), key=lambda one: (credit[one], -one))
            credit[part] -= period
            self._part[slot], self._before[slot] = part, counts[part]
            counts[part] += 1

    def at(self, position: int) -> tuple[int, int]:
        """The source that a position takes, and how many examples of that source come before it."""
        cycle, slot = divmod(position, len(self._part))
        part = int(self._part[slot])
        return part, cycle * self.turns[part] + int(self._before[slot])


class ConcatSource:
    """Sources one after the other, each example once: what is held out of each source of a mixture."""

    def __init__(self, sources: Sequence[Source]):
        self._sources = tuple(sources)
        self._ends = np.cumsum([len(one) for one in self._sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._sources[part][index - int(self._ends[part]) + len(self._sources[part])]

    def fingerprint(self) -> str:
        """Changes with any of the sources and with their order."""
        parts = [(one.fingerprint(), len(one)) for one in self._sources]
        return "joined-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class MixedSources:
    """Opened sources and the pattern in which they take turns: what ``Loader`` asks of a mixture."""

    def __init__(self, sources: Sequence[Source], weights: Sequence[float]):
        if empty := [str(number) for number, one in enumerate(sources, 1) if len(one) == 0]:
            raise UserError(f"mixture: expected examples in every source, got none in source {', '.join(empty)}")
        self.sources = tuple(sources)
        self.interleaving = Interleaving(weights)

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def fingerprint(self) -> str:
        """Changes with any of the sources, with their order and with the pattern."""
        parts = ([(one.fingerprint(), len(one)) for one in self.sources], self.interleaving.turns)
        return "mixture-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
