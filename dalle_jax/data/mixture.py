"""Mixtures of several sources: examples interleaved by exact weights, as a pure function of the position."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.data.choices import SourceConfig
from dalle_jax.data.source import Example, Source

MAX_PERIOD = 100_000
"""Largest number of examples after which the order of sources may repeat."""


@dataclass(frozen=True)
class MixturePart:
    """A source of a mixture and its weight, relative to the other weights."""

    source: SourceConfig
    weight: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight: expected a positive number, got {self.weight}")


@dataclass(frozen=True)
class Mixture:
    """Sources by name, mixed in proportion to their weights.

    Weights of 0.95 and 0.05 give nineteen examples of the first source and one of the second in every twenty. Each
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
    """The order in which a mixture takes examples from its sources, which repeats after a period.

    It is smooth weighted round robin: in every part of a period, sources occur about as often as their weights say.

    Raises ``ValueError`` for weights that are not positive or whose period exceeds ``MAX_PERIOD``.
    """

    def __init__(self, weights: Sequence[float]):
        if not weights or not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise ValueError(f"weights: expected positive numbers, got {tuple(weights)}")
        exact = [Fraction(repr(float(weight))) for weight in weights]
        scale = math.lcm(*(weight.denominator for weight in exact))
        whole = [int(weight * scale) for weight in exact]
        divisor = math.gcd(*whole)
        self.turns = tuple(weight // divisor for weight in whole)
        """Number of examples of each source in one period."""
        period = sum(self.turns)
        if period > MAX_PERIOD:
            raise ValueError(
                f"weights: expected weights whose order of sources repeats within {MAX_PERIOD:,} examples, such as "
                f"0.95 and 0.05; got {tuple(weights)}, whose order repeats after {period:,}. Round them to fewer digits"
            )
        credit = [0] * len(self.turns)
        counts = [0] * len(self.turns)
        self._part = np.zeros(period, np.int32)
        self._before = np.zeros(period, np.int64)
        for slot in range(period):
            credit = [have + turn for have, turn in zip(credit, self.turns, strict=True)]
            part = max(range(len(credit)), key=lambda candidate: (credit[candidate], -candidate))
            credit[part] -= period
            self._part[slot], self._before[slot] = part, counts[part]
            counts[part] += 1

    def at(self, position: int) -> tuple[int, int]:
        """Return the number of the source of the example at ``position``.

        The second result is the number of examples of that source before it.
        """
        cycle, slot = divmod(position, len(self._part))
        part = int(self._part[slot])
        return part, cycle * self.turns[part] + int(self._before[slot])


class ConcatSource:
    """Several sources one after the other, each example once. It holds the evaluation examples of a mixture."""

    def __init__(self, sources: Sequence[Source]):
        self._sources = tuple(sources)
        self._ends = np.cumsum([len(source) for source in self._sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._sources[part][index - int(self._ends[part]) + len(self._sources[part])]

    def fingerprint(self) -> str:
        """Return a hash that changes with any of the sources and with their order."""
        parts = [(source.fingerprint(), len(source)) for source in self._sources]
        return "joined-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class MixedSources:
    """The opened sources of a ``Mixture`` and their interleaving, as ``Loader`` uses them."""

    def __init__(self, sources: Sequence[Source], weights: Sequence[float]):
        if empty := [str(number) for number, source in enumerate(sources, 1) if len(source) == 0]:
            raise UserError(f"mixture: expected examples in every source, got none in source {', '.join(empty)}")
        self.sources = tuple(sources)
        self.interleaving = Interleaving(weights)

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def fingerprint(self) -> str:
        """Return a hash that changes with any of the sources, their order and their weights."""
        parts = ([(source.fingerprint(), len(source)) for source in self.sources], self.interleaving.turns)
        return "mixture-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
