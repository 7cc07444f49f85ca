"""Refuse a run whose processes were given different configs, before any of them does expensive work."""

import hashlib
import socket

from dalle_jax.config.errors import UserError
from dalle_jax.parallel import hosts

NAMED = 5
"""The most fields that the error names."""


def require_same_config(text: str) -> None:
    """Raise UserError on every process unless all of them give the same resolved config.

    All processes call this at the same place. ``text`` is ``render(config, per_host=False)``.
    The hashes are compared; only where they differ are the texts exchanged, to name the fields.
    """
    if len(set(hosts.gather(hashlib.sha256(text.encode()).digest()))) == 1:
        return
    names = [name.decode() for name in hosts.gather(socket.gethostname().encode())]
    texts = [one.decode() for one in hosts.gather(text.encode())]
    found = config_differences(texts, names)
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    raise UserError(
        f"expected the same config on all {len(texts)} processes of this run, got different ones: "
        + "; ".join(found[:NAMED])
        + more
        + ". Start every process with the same config file and the same --set"
    )


def config_differences(texts: list[str], names: list[str]) -> list[str]:
    """Return one phrase per field that differs, with each value and the first process that has it.

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
    """List each value with the first process that has it and the number of others."""
    phrases = []
    for value in dict.fromkeys(values):
        first, count = values.index(value), values.count(value)
        others = f" and {count - 1} more" if count > 1 else ""
        phrases.append(f"{value[:100]} on process {first} ({names[first]}){others}")
    return ", ".join(phrases)
