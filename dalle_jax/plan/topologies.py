"""TPU slices by name, and their devices for the compiler, on a machine without TPUs."""

import importlib.util
import math
import re
from dataclasses import dataclass
from importlib.metadata import version

import jax
from jax.experimental import topologies

from dalle_jax.config.errors import UserError, install_hint
from dalle_jax.config.problems import did_you_mean
from dalle_jax.parallel.chips import Chip, chip_named

FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
CUBE = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8), (8, 8, 16), (8, 16, 16))

SLICES: dict[str, tuple[tuple[int, ...], ...]] = {
    "v4": (*CUBE, (16, 16, 16)),
    "v5e": FLAT,
    "v5p": (*CUBE, (16, 16, 16), (16, 16, 24)),
    "v6e": FLAT,
    "tpu7x": (*CUBE, (16, 16, 16)),
}
"""By generation, the shapes of slices for training in Google's documentation, smallest first."""


@dataclass(frozen=True)
class Topology:
    """A number of TPU slices of one generation (``family``) and one shape."""

    family: str
    shape: tuple[int, ...]
    slices: int = 1

    def __str__(self) -> str:
        name = f"{self.family}:{'x'.join(map(str, self.shape))}"
        return name if self.slices == 1 else f"{self.slices} slices of {name}"

    @property
    def chips(self) -> int:
        """Return the number of chips, over all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def chip(self) -> Chip:
        """Return the published peak FLOP/s, memory and bandwidth of one chip."""
        chip = chip_named(self.family)
        assert chip is not None
        return chip

    def larger(self) -> list["Topology"]:
        """Return the topologies of the same family and number of slices whose slices are larger, smallest first."""
        mine = math.prod(self.shape)
        return [Topology(self.family, s, self.slices) for s in SLICES[self.family] if math.prod(s) > mine]

    def devices(self) -> list[jax.Device]:
        """Return devices that programs can be compiled for but not run on. Raise ``UserError`` without libtpu."""
        check_libtpu()
        options: dict[str, str | int | list[int]] = {}
        if self.family == "v4":
            options["chip_config_name"] = "megacore"  # otherwise a chip is two devices, which is unusual
        if self.slices > 1:
            options["num_slices"] = self.slices
        if len(self.shape) == 2:
            bounds = [min(2, side) for side in self.shape]
            options["chips_per_host_bounds"] = [*bounds, 1]
        name = f"{self.family}:{'x'.join(map(str, self.shape))}"
        try:
            return list(topologies.get_topology_desc(name, platform="tpu", **options).devices)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            said = str(error).strip().splitlines()[0][:300]
            raise UserError(f"--topology {name}: expected a slice that libtpu knows, got its error: {said}") from error


def parse(text: str, slices: int = 1) -> Topology:
    """Parse a topology such as ``v5p:8x8x8``. Raise ``UserError`` if the text does not name one."""
    if slices < 1:
        raise UserError(f"--slices: expected 1 or more, got {slices}")
    family, colon, sides = text.partition(":")
    if family not in SLICES:
        raise UserError(
            f"--topology {text!r}: expected one of {', '.join(SLICES)}, a colon and the slice's shape, "
            f"such as v5p:4x4x4{did_you_mean(family, list(SLICES))}"
        )
    dimensions = len(SLICES[family][0])
    if not colon or not re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3})*", sides) or sides.count("x") + 1 != dimensions:
        example = "x".join(map(str, SLICES[family][4]))
        raise UserError(
            f"--topology {text!r}: expected the shape of a {family} slice as {dimensions} numbers, such as "
            f"{family}:{example}, got {sides!r}"
        )
    return Topology(family, tuple(int(side) for side in sides.split("x")), slices)


def check_libtpu() -> None:
    """Raise ``UserError`` if libtpu, the TPU compiler, is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"plan: expected the package libtpu, the compiler for TPUs, found none; {install_hint('plan')}")


def versions() -> dict[str, str]:
    """Return the versions of the packages that a plan depends on."""
    return {"jax": jax.__version__, "libtpu": version("libtpu")}
