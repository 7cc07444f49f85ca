"""Accuracy by atom of a caption, by the number of its atoms, and by the share of its combinations that are held out.

An atom is one claim that a caption makes in words: a colour, a shape, a size, a number, a relation, a background, a
word. As in GenEval 2 (arXiv 2512.16853) an implied "no other object" is judged, but is not an atom. A caption is right
if every claim is, the implied ones too.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from dalle_jax.evaluate.metrics.shares import Share, share_of
from dalle_jax.scenes.grammar import parse
from dalle_jax.scenes.judge import Judgement, Part
from dalle_jax.scenes.split import HELD_OUT, combinations


@dataclass(frozen=True)
class AtomCount:
    """Accuracy on the captions of one number of atoms: whole captions, and their atoms one by one."""

    captions: Share
    atoms: Share


@dataclass(frozen=True)
class AtomTable:
    """Accuracies of judged images.

    - ``kinds``: the share of right atoms by kind, such as "colour".
    - ``counts``: accuracy by the number of atoms of the caption.
    - ``held_out``: the share of right captions by the share of their combinations that are held out.
    """

    kinds: dict[str, Share]
    counts: dict[int, AtomCount]
    held_out: dict[float, Share]

    def to_json(self) -> dict[str, object]:
        """Return the values and their counts: ``{"colour": {"value": 0.9, "count": 40}, ...}`` and so on."""
        return {
            "by_kind": {kind: _shown(share) for kind, share in self.kinds.items()},
            "by_number": {
                str(number): {"captions": _shown(one.captions), "atoms": _shown(one.atoms)}
                for number, one in self.counts.items()
            },
            "by_held_out_share": {f"{key:.2f}": _shown(share) for key, share in self.held_out.items()},
        }


def atoms_of(judgement: Judgement) -> tuple[Part, ...]:
    """Return the parts that the caption names: no plain background, and the number of objects only of a group."""
    scene = parse(judgement.caption)
    implied = {"count"} if scene.arrangement != "group" else set()
    implied |= {"background"} if scene.background is None else set()
    return tuple(part for part in judgement.parts if part.name not in implied)


def atom_table(judgements: Iterable[Judgement]) -> AtomTable:
    """Return the accuracies of judged images."""
    kinds: dict[str, list[bool]] = defaultdict(list)
    captions: dict[int, list[bool]] = defaultdict(list)
    atoms: dict[int, list[bool]] = defaultdict(list)
    held_out: dict[float, list[bool]] = defaultdict(list)
    for judgement in judgements:
        own = atoms_of(judgement)
        for part in own:
            kinds[part.name.split()[0]].append(part.right)
        captions[len(own)].append(judgement.right)
        atoms[len(own)] += [part.right for part in own]
        flags = [one in HELD_OUT for one in combinations(parse(judgement.caption))]
        if flags:
            held_out[round(sum(flags) / len(flags), 2)].append(judgement.right)
    return AtomTable(
        kinds={kind: share_of(kinds[kind]) for kind in sorted(kinds)},
        counts={n: AtomCount(share_of(captions[n]), share_of(atoms[n])) for n in sorted(captions)},
        held_out={key: share_of(held_out[key]) for key in sorted(held_out)},
    )


def _shown(share: Share) -> dict[str, object]:
    return {"value": share.value, "count": share.count, "interval_95": share.interval}
