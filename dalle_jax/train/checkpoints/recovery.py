"""The choice of the checkpoint to resume from: the newest intact one. Damaged ones are reported, never deleted."""

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
    """Return the steps of the complete checkpoints, oldest first.

    Incomplete and damaged checkpoints have other names, which are not plain numbers. On a remote store, where a rename
    is not atomic, incomplete ones lack the commit file.
    """
    if storage.is_remote(folder):
        marker = "/" + checksums.COMMIT_FILE
        names = [name.removesuffix(marker) for name in storage.files(folder) if name.endswith(marker)]
    else:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal() and name == str(int(name)))


def newest_whole(folder: Place, damage: Callable[[Place], str | None]) -> tuple[int | None, dict[int, str]]:
    """Return the step of the newest intact checkpoint, or None if there are no checkpoints.

    The second result describes, by step, the damage of each checkpoint that is newer.

    Raise UserError if all checkpoints are damaged, since the run must not silently start over.
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
            f"{folder}: expected an intact checkpoint, got only damaged ones ({listed}). "
            "Copy an intact one there, or give a different --out to start over"
        )
    return None, wrong


def damage_found_together(path: Place) -> str | None:
    """Return a description of a checkpoint's damage, or None if it is intact.

    All processes must call it. Each reads a share of the files, and all get the same answer: damaged or intact.
    """
    count = jax.process_count()
    reason = checksums.damage(path, share=(jax.process_index(), count))
    if count == 1:
        return reason
    found = multihost_utils.process_allgather(np.asarray(reason is not None))
    return (reason or "a different process found the damage") if found.any() else None


def set_aside(folder: Place, step: int, reason: str) -> None:
    """Rename a damaged checkpoint with a warning, so that its step can be saved again."""
    if hosts.is_first():
        names = {name.split("/")[0] for name in storage.files(folder)}
        aside = next(name for number in range(len(names) + 1) if (name := _aside_name(step, number)) not in names)
        storage.rename(folder / str(step), folder / aside)
        warn(f"the checkpoint of step {step} in {folder} is damaged ({reason}): it was renamed to {aside}")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"checkpoint {step} set aside")


def warn(line: str) -> None:
    """Print a warning to standard error, from the first process only."""
    if hosts.is_first():
        print(f"dalle-jax: WARNING: {line}", file=sys.stderr, flush=True)


def _aside_name(step: int, number: int) -> str:
    return f"{step}.damaged" + (f"-{number}" if number else "")
