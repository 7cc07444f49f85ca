"""Which checkpoint to go on from: the newest that is as it was written. Damaged ones are said loudly, never deleted."""

import sys
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.parallel import hosts
from dalle_jax.storage import Place
from dalle_jax.train.checkpoints import checksums


def whole_steps(folder: Place) -> list[int]:
    """Steps of the checkpoints that were finished, oldest first.

    Half-written and damaged ones have other names; behind a URL, where a rename is no single act, half-written ones
    lack their marker.
    """
    if storage.is_remote(folder):
        marker = "/" + checksums.COMMIT_FILE
        names = [name.removesuffix(marker) for name in storage.files(folder) if name.endswith(marker)]
    else:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def newest_whole(folder: Place, damage: Callable[[Place], str | None]) -> tuple[int | None, dict[int, str]]:
    """The step of the newest checkpoint in which ``damage`` finds nothing, and what it found in those that are newer.

    Raises UserError where there are checkpoints and all are damaged: to begin anew in silence would be worse.
    """
    wrong: dict[int, str] = {}
    for step in reversed(whole_steps(folder)):
        reason = damage(folder / str(step))
        if reason is None:
            return step, wrong
        wrong[step] = reason
    if wrong:
        listed = "; ".join(f"{step}: {reason}" for step, reason in wrong.items())
        raise UserError(
            f"no checkpoint in {folder} is as it was written ({listed}). "
            "Copy a whole one there, or give another --out to begin anew"
        )
    return None, wrong


def damage_found_together(path: Place) -> str | None:
    """What is wrong with a checkpoint. All processes of a run call it, share the reading and get the same answer."""
    count = jax.process_count()
    reason = checksums.damage(path, share=(jax.process_index(), count))
    if count == 1:
        return reason
    found = multihost_utils.process_allgather(np.asarray(reason is not None))
    return (reason or "found by another process") if found.any() else None


def set_aside(folder: Place, step: int, reason: str) -> None:
    """Renames a damaged checkpoint, so that its step can be saved again, and says so."""
    if hosts.is_first():
        names = {name.split("/")[0] for name in storage.files(folder)}
        aside = next(name for number in range(len(names) + 1) if (name := _aside_name(step, number)) not in names)
        storage.rename(folder / str(step), folder / aside)
        warn(f"the checkpoint of step {step} in {folder} is damaged ({reason}): it is now {aside}")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"checkpoint {step} set aside")


def warn(line: str) -> None:
    """One line that nobody overlooks, on standard error."""
    if hosts.is_first():
        print(f"dalle-jax: WARNING: {line}", file=sys.stderr, flush=True)


def _aside_name(step: int, number: int) -> str:
    return f"{step}.damaged" + (f"-{number}" if number else "")
