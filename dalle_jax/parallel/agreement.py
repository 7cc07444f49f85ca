"""Check at the start of a run that all of its processes have the same config."""

import hashlib
import socket

from dalle_jax.config.errors import UserError
from dalle_jax.parallel import hosts

NAMED = 5
"""Largest number of fields that the error lists."""


def require_same_config(text: str) -> None:
    """Raise ``UserError`` on every process if the resolved configs of the processes differ.

    Every process must call this at the same point. ``text`` is ``render(config, per_host=False)``. The processes
    compare hashes first; if these differ, they exchange the texts to list the fields.
    """
    if len(set(hosts.gather(hashlib.sha256(text.encode()).digest()))) == 1:
        return
    names = [name.decode() for name in hosts.gather(socket.gethostname().encode())]
    texts = [one.decode() for one in hosts.gather(text.encode())]
    found = config_differences(texts, names)
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    raise UserError(
        f"expected the same config on all {len(texts)} processes of this run, got different values: "
        + "; ".join(found[:NAMED])
        + more
        + ". Start every process with the same config file and the same --set arguments"
    )


def config_differences(texts: list[str], names: list[str]) -> list[str]:
    """Describe each field that differs: its values, and the first process that has each value.

    ``texts`` and ``names`` hold the rendered config and the host name of each process, in order.
    """
    configs = [_fields(text) for text in texts]
    every = dict.fromkeys(name for config in configs for name in config)
    return [
        f"{field} is {_values([config.get(field, 'not set') for config in configs], names)}"
        for field in every
        if len({config.get(field) for config in configs}) > 1
    ]


def _fields(text: str) -> dict[str, str]:
    lines = (line.partition(" = ") for line in text.splitlines())
    return {name: value for name, equals, value in lines if equals}


def _values(values: list[str], names: list[str]) -> str:
    """List each value with the first process that has it and the number of further processes."""
    phrases = []
    for value in dict.fromkeys(values):
        first, count = values.index(value), values.count(value)
        others = f" and {count - 1} more" if count > 1 else ""
        phrases.append(f"{value[:100]} on process {first} ({names[first]}){others}")
    return ", ".join(phrases)
