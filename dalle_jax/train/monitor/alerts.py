"""What watches a run and speaks up: skipped updates, and detectors of the failures that users report."""

from collections.abc import Mapping

from dalle_jax.config.errors import UserError
from dalle_jax.train.monitor.detectors import Detector


class Watch:
    """Reads the figures whenever some are written; each detector speaks once until its figure has recovered."""

    def __init__(self, abort_after: int, detectors: tuple[Detector, ...]):
        self._abort_after = abort_after
        self._detectors = detectors
        self._speaking: set[int] = set()

    def warnings(self, step: int, values: Mapping[str, float]) -> list[str]:
        """What to say loudly at this step, from figures by their full names ("train/loss")."""
        reasons = {"train/skipped": "were not finite", "train/spiked": "had a spike in their gradient norm"}
        said = [
            f"{values[name]:.0%} of the last updates {reason}: skipped"
            for name, reason in reasons.items()
            if values.get(name, 0.0) > 0
        ]
        for index, detector in enumerate(self._detectors):
            found = detector.found(step, values)
            if found and index not in self._speaking:
                said.append(found)
            if found is not None:
                (self._speaking.add if found else self._speaking.discard)(index)
        return [f"WARNING step {step}: {text}" for text in said]

    def check(self, step: int, skipped_in_a_row: int) -> None:
        """Raises UserError after too many skipped updates in a row: the run has diverged."""
        if skipped_in_a_row >= self._abort_after:
            raise UserError(
                f"stopped at step {step}: the last {skipped_in_a_row} updates in a row were not finite or had a spike "
                f"in their gradient norm (the limit is {self._abort_after}). The newest checkpoint is from before; go "
                "on with a lower learning rate, a longer warm-up or a smaller clip_norm"
            )
