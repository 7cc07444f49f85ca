"""The flags ``--mesh`` and ``--rules`` of commands that load a pipeline, and the processes of a run that joins."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace

import jax

from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import did_you_mean
from dalle_jax.parallel import failures, hosts
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules


def add_mesh_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="the devices that share weights and images, such as data=4,fsdp=2,tensor=2 (also slices=N); -1 takes the "
        "remaining devices, and so does data if it is left out (default: one device; docs/launching.md)",
    )
    parser.add_argument(
        "--rules",
        metavar="AXIS=MESH,...",
        help="mesh axes of logical axes, as in a config: embed=fsdp+tensor,vocab= (default: those of training)",
    )


@contextmanager
def joined_layout(args: argparse.Namespace) -> Iterator[Layout | None]:
    """Join the other processes of the run, and give the layout of the flags; None is one device.

    An error in the body ends all processes. Raise UserError for a mesh that does not fit the devices.
    """
    hosts.join()
    with failures.shared():
        yield layout_of(args.mesh, args.rules)


def layout_of(mesh: str | None, rules: str | None) -> Layout | None:
    """Return the layout of the texts of both flags."""
    if mesh is None:
        if rules is not None:
            raise UserError(f"--rules: expected --mesh with it, since one device holds everything, got {rules}")
        if jax.process_count() > 1:
            raise UserError(
                f"--mesh: expected the mesh of all {jax.device_count()} devices of {jax.process_count()} processes, "
                "such as --mesh data=-1, got none"
            )
        return None
    return Layout(make_mesh(parse_mesh(mesh)), Rules() if rules is None else parse_rules(rules))


def bulk_layout(mesh: str | None, rules: str | None, together: bool) -> Layout | None:
    """Return the layout of the texts of both flags for bulk sampling; None is one device.

    If processes do not draw ``together``, the mesh is that of each process's own devices, by default data=-1.
    """
    if together:
        return layout_of(mesh, rules)
    devices = jax.local_devices()
    if mesh is None and len(devices) == 1:
        return None
    return Layout(make_mesh(parse_mesh(mesh or "data=-1"), devices), Rules() if rules is None else parse_rules(rules))


def parse_mesh(text: str) -> Mesh:
    """Parse a mesh such as ``data=4,fsdp=2,tensor=2``."""
    sizes: dict[str, int] = {}
    for name, value in _pairs("--mesh", text, [field.name for field in fields(Mesh)]):
        if not value.removeprefix("-").isdecimal():
            raise UserError(f"--mesh {name}: expected a number of devices, or -1 for the remaining ones, got {value!r}")
        sizes[name] = int(value)
    if -1 in sizes.values():
        sizes.setdefault("data", 1)
    return Mesh(**sizes)


def parse_rules(text: str) -> Rules:
    """Parse rules such as ``embed=fsdp+tensor,vocab=``, in which an axis without a value is replicated."""
    pairs = _pairs("--rules", text, [field.name for field in fields(Rules)])
    return replace(Rules(), **{name: tuple(one for one in value.split("+") if one) for name, value in pairs})


def _pairs(flag: str, text: str, names: list[str]) -> list[tuple[str, str]]:
    """Split ``name=value,name=value``."""
    pairs = []
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or name not in names:
            hint = did_you_mean(name, names)
            raise UserError(f"{flag}: expected NAME=VALUE with a name of {', '.join(names)}, got {part!r}{hint}")
        pairs.append((name, value))
    return pairs
