"""Parameters chosen by patterns of their dotted paths."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import did_you_mean


def fitting(field: str, names: Iterable[str], only: Sequence[str], but: Sequence[str]) -> set[str]:
    """The names that fit one of ``only`` and none of ``but``; UserError naming ``field`` if a pattern fits none."""
    names = sorted(names)
    idle = [one for one in (*only, *but) if not any(fnmatchcase(name, one) for name in names)]
    if idle:
        hints = "".join(did_you_mean(one, names) for one in idle[:1])
        raise UserError(
            f"{field}: expected patterns that fit a parameter, got {', '.join(map(repr, idle))}{hints}; "
            f"the model has {len(names)}, such as {', '.join(names[:4])}"
        )
    chosen = {name for name in names if any(fnmatchcase(name, one) for one in only)}
    return {name for name in chosen if not any(fnmatchcase(name, one) for one in but)}
