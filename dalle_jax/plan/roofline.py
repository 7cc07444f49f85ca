"""Roofline estimate of a step's time, from the chips' published FLOP/s and bandwidths."""

from dataclasses import dataclass

from dalle_jax.parallel.chips import Chip

ASSUMPTIONS = (
    "every matrix product runs at the chip's dense bfloat16 peak",
    "every byte of the memory peak is written once and read once",
    "collectives run in rings over all links of a chip at once, in one direction (half of the published bandwidth)",
    "links between slices are as fast as links within a slice",
    "the time lies between the longest of the three (all overlap) and their sum (no overlap)",
)


@dataclass(frozen=True)
class Roofline:
    """Lower bounds in seconds per step: from matrix products, from memory traffic and from collectives."""

    products: float
    memory: float
    collectives: float

    @property
    def least(self) -> float:
        """Return the time if all three overlap."""
        return max(self.products, self.memory, self.collectives)

    @property
    def most(self) -> float:
        """Return the time if none of the three overlap."""
        return self.products + self.memory + self.collectives

    @property
    def bound_by(self) -> str:
        """Return the name of the longest of the three."""
        return max(("products", "memory", "collectives"), key=lambda name: getattr(self, name))


def roofline(chip: Chip, devices: int, hardware_flops: float, peak: int, sent: float) -> Roofline:
    """Compute the bounds of a step.

    ``hardware_flops`` is the sum over devices; ``peak`` (memory) and ``sent`` (collectives) are bytes per device.
    """
    links = chip.interconnect / 2 / chip.devices if chip.interconnect else float("inf")
    return Roofline(
        products=hardware_flops / devices / chip.device_flops,
        memory=2 * peak / (chip.bandwidth / chip.devices),
        collectives=sent / links,
    )
