"""How often a picture is what its caption says: first candidate, CLIP's choice, and the best there was.

Letters: P captions, M candidates of each. A picture is right when the reader (``scenes.read``), which sees pixels
alone, finds every part of the caption in it.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dalle_jax.arrays import Float, UInt8
from dalle_jax.evaluate.shares import Share, share_of
from dalle_jax.pipelines.rerank import CANDIDATE_COUNTS, choice_among_first
from dalle_jax.scenes import grammar
from dalle_jax.scenes.judge import Judgement, judge

Split = Literal["seen", "held_out"]
SPLITS: tuple[Split, ...] = ("seen", "held_out")
RERANKED_COUNTS = CANDIDATE_COUNTS[1:]
ANY_OF_COUNTS = (4, 16)
"""How many candidates "at least one of them is right" looks at; all of those are judged, so no more than is needed."""

DRAWS = 1000
"""How often a caption that is not yet in the list is looked for before one is repeated."""

Judge = Callable[[np.ndarray, str], Judgement]


@dataclass(frozen=True)
class PartShare:
    """How often one part of the captions (a colour, a relation) is right, whatever the other parts are."""

    name: str
    first: Share
    chosen: Share


@dataclass(frozen=True)
class Cell:
    """One level and split of the table.

    ``reranked`` and ``any_of`` go from a number of candidates to the share of captions for which CLIP's choice among
    the first that many is right, or at least one of them is. ``parts`` compares the first candidate with CLIP's choice
    among ``chosen_of`` (16, or the largest number there was).
    """

    level: int
    split: Split
    first: Share
    reranked: dict[int, Share]
    any_of: dict[int, Share]
    chosen_of: int
    parts: tuple[PartShare, ...]

    @property
    def chosen(self) -> Share:
        """CLIP's choice among ``chosen_of``; the first candidate where there was no choice."""
        return self.reranked.get(self.chosen_of, self.first)

    def figures(self) -> dict[str, Share]:
        """Every share of the cell under its name in ``metrics.json``: first, reranked_16, any_of_16, ..."""
        out = {"first": self.first}
        out |= {f"reranked_{n}": share for n, share in self.reranked.items()}
        return out | {f"any_of_{n}": share for n, share in self.any_of.items()}


@dataclass(frozen=True)
class Composition:
    """The table: its cells in the order in which they are shown."""

    cells: tuple[Cell, ...]

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels that were measured, from easy to hard."""
        return tuple(sorted({cell.level for cell in self.cells}))

    def cell(self, level: int, split: Split) -> Cell | None:
        """The cell of that level and split, or None where it was not measured."""
        return next((cell for cell in self.cells if (cell.level, cell.split) == (level, split)), None)

    def to_json(self) -> dict[str, Any]:
        """``{"level_1": {"seen": {"first": 0.84, ..., "count": 100, "interval_95": {...}, "parts": {...}}}}``."""
        out: dict[str, Any] = {level_name(level): {} for level in self.levels}
        for cell in self.cells:
            figures = cell.figures()
            out[level_name(cell.level)][cell.split] = {
                **{name: share.value for name, share in figures.items()},
                "count": cell.first.count,
                "interval_95": {name: _listed(share.interval) for name, share in figures.items()},
                "parts": {
                    part.name: {"first": part.first.value, f"reranked_{cell.chosen_of}": part.chosen.value}
                    for part in cell.parts
                },
            }
        return out


@dataclass(frozen=True)
class JudgedCaption:
    """What the reader said of one caption's first candidate and of CLIP's choice, for showing them side by side."""

    caption: str
    first: Judgement
    chosen: Judgement
    chosen_index: int


def level_name(level: int) -> str:
    """The key of a level in ``metrics.json``."""
    return f"level_{level}"


def evaluation_captions(level: int, split: Split, count: int, seed: int) -> tuple[str, ...]:
    """A fixed list of ``count`` captions: the same for the same arguments, and the beginning of any longer list.

    ``seen`` draws combinations that occur in training, with a seed of its own; ``held_out`` those that never do. No
    caption stands twice as long as a new one is found in ``DRAWS`` draws: level 1 has only some 160 held-out captions.
    """
    rng = np.random.default_rng((seed, level, SPLITS.index(split)))
    source: Literal["validation", "held_out"] = "validation" if split == "seen" else "held_out"
    captions: dict[str, None] = {}
    repeated: list[str] = []
    while len(captions) + len(repeated) < count:
        for _ in range(DRAWS):
            caption = grammar.caption(grammar.sample_scene(level, rng, source), rng)
            if caption not in captions:
                captions[caption] = None
                break
        else:
            repeated.append(caption)
    return (*captions, *repeated)


def measure_cell(
    level: int,
    split: Split,
    captions: Sequence[str],
    pictures: UInt8[np.ndarray, "P M H W 3"],
    scores: Float[np.ndarray, "P M"],
    judged_by: Judge = judge,
) -> tuple[Cell, tuple[JudgedCaption, ...]]:
    """Judges the candidates of one level and split; returns the figures and what was said of the pictures to show.

    Read are the candidates that a figure needs: the first 16 and the choices, for M = 64 a quarter of them all.
    Raises ValueError where captions, pictures and scores do not match.
    """
    if not len(captions) == len(pictures) == len(scores):
        raise ValueError(
            f"{len(captions)} captions, pictures of {len(pictures)} and scores of {len(scores)}: must agree"
        )
    if pictures.shape[1] != scores.shape[1]:
        raise ValueError(f"{pictures.shape[1]} candidates of each caption but {scores.shape[1]} scores: must agree")
    available = pictures.shape[1]
    choices = choice_among_first(scores)
    any_of = [n for n in ANY_OF_COUNTS if n <= available]
    chosen_of = max(n for n in choices if n <= 16)
    verdicts = [
        {
            index: judged_by(pictures[row, index], caption)
            for index in sorted({*range(max(any_of, default=1)), *(int(choice[row]) for choice in choices.values())})
        }
        for row, caption in enumerate(captions)
    ]
    chosen = choices[chosen_of]
    shown = tuple(
        JudgedCaption(caption, first=seen[0], chosen=seen[int(choice)], chosen_index=int(choice))
        for caption, seen, choice in zip(captions, verdicts, chosen, strict=True)
    )
    cell = Cell(
        level=level,
        split=split,
        first=share_of(seen[0].right for seen in verdicts),
        reranked={
            n: share_of(seen[int(i)].right for seen, i in zip(verdicts, choices[n], strict=True))
            for n in RERANKED_COUNTS
            if n in choices
        },
        any_of={n: share_of(any(seen[i].right for i in range(n)) for seen in verdicts) for n in any_of},
        chosen_of=chosen_of,
        parts=_part_shares(shown),
    )
    return cell, shown


def _part_shares(shown: Sequence[JudgedCaption]) -> tuple[PartShare, ...]:
    """Per part name, in the order in which names first occur; a caption may hold a name more than once."""
    first: dict[str, list[bool]] = defaultdict(list)
    chosen: dict[str, list[bool]] = defaultdict(list)
    for judged in shown:
        for outcomes, judgement in ((first, judged.first), (chosen, judged.chosen)):
            for part in judgement.parts:
                outcomes[part.name].append(part.right)
    return tuple(PartShare(name, first=share_of(first[name]), chosen=share_of(chosen[name])) for name in first)


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
