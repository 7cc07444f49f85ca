"""What watches a run and speaks up: skipped updates, and detectors of the failures that users report."""

from collections.abc import Mapping
from dataclasses import dataclass

from dalle_jax.config.errors import UserError


@dataclass(frozen=True)
class Detector:
    """Warns when a figure falls below ``below`` after step ``after``: what is wrong, and the cure."""

    figure: str
    below: float
    after: int
    message: str


DETECTORS = (
    Detector(
        figure="codebook/usage",
        below=0.1,
        after=200,
        message="CODEBOOK COLLAPSE: only {value:.1%} of the codes are in use; pictures will be blurred, or one colour. "
        "Revive dead codes sooner, lower the learning rate, or make the codebook smaller.",
    ),
)


class Watch:
    """Reads the figures of every logging step; each detector speaks once until its figure has recovered."""

    def __init__(self, abort_after: int, detectors: tuple[Detector, ...] = DETECTORS):
        self._abort_after = abort_after
        self._detectors = detectors
        self._speaking: set[str] = set()

    def warnings(self, step: int, values: Mapping[str, float]) -> list[str]:
        """What to say loudly at this step; the share of skipped updates since the last one is among ``values``."""
        said = []
        if values.get("skipped", 0.0) > 0:
            said.append(f"WARNING step {step}: {values['skipped']:.0%} of the last updates were not finite: skipped")
        for detector in self._detectors:
            value = values.get(detector.figure)
            bad = value is not None and step >= detector.after and value < detector.below
            if bad and detector.figure not in self._speaking:
                said.append(f"WARNING step {step}: " + detector.message.format(value=value))
            (self._speaking.add if bad else self._speaking.discard)(detector.figure)
        return said

    def check(self, step: int, skipped_in_a_row: int) -> None:
        """Raises UserError after too many skipped updates in a row: the run has diverged."""
        if skipped_in_a_row >= self._abort_after:
            raise UserError(
                f"stopped at step {step}: the last {skipped_in_a_row} updates in a row were not finite (the limit is "
                f"{self._abort_after}). The newest checkpoint is from before; go on with a lower learning rate, a "
                "longer warm-up or a smaller clip_norm"
            )
