"""Checks of the fields that the configs of several sources share."""

from collections.abc import Iterable, Mapping, Sequence

from dalle_jax.config.errors import UserError


def check_config(
    source: str,
    limits: Mapping[str, int],
    caption: Sequence[str] | None = None,
    extensions: Mapping[str, Sequence[str]] | None = None,
    problems: Iterable[str] = (),
) -> None:
    """Check fields of a source's config, and raise one UserError that names each wrong field.

    - ``limits``: fields that must be at least 1.
    - ``caption``: names of the fields that hold captions, of which there must be at least one.
    - ``extensions``: fields that hold file extensions, by name.
    - ``problems``: messages about faults that the source found itself.

    An argument is None if the source has no such field, or checks it itself.
    """
    found = list(problems)
    if caption is not None and not caption:
        found.append("caption: expected names of the fields that hold captions, got none")
    for name, given in (extensions or {}).items():
        if not given or not all(one and one == one.lower().strip(".") for one in given):
            found.append(f"{name}: expected file extensions in lower case without a dot, got {given}")
    found += [f"{name}: expected at least 1, got {value}" for name, value in limits.items() if value < 1]
    if found:
        raise UserError(f"{source}: " + "; ".join(found))
