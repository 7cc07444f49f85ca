"""How long a step takes at least, from what the chips' makers publish."""

from dataclasses import dataclass

from dalle_jax.parallel.chips import Chip

ASSUMPTIONS = (
    "every matrix product runs at the chip's dense bfloat16 peak",
    "every byte that is held at the peak of memory is written once and read once",
    "collectives run in rings over all links of a chip at once, in one direction (half of the published figure)",
    "links between slices are as fast as those within one",
    "the time lies between the longest of the three (all overlap) and their sum (none do)",
)


@dataclass(frozen=True)
class Roofline:
    """Seconds of one step: of products, of memory traffic, of collectives, and what follows from them."""

    products: float
    memory: float
    collectives: float

    @property
    def least(self) -> float:
        """All three at the same time."""
        return max(self.products, self.memory, self.collectives)

    @property
    def most(self) -> float:
        """One after another."""
        return self.products + self.memory + self.collectives

    @property
    def bound_by(self) -> str:
        """The longest."""
        return max(("products", "memory", "collectives"), key=lambda name: getattr(self, name))


def roofline(chip: Chip, devices: int, hardware_flops: float, peak: int, sent: float) -> Roofline:
    """``hardware_flops`` of all devices; ``peak`` and ``sent``, bytes, of one."""
    links = chip.interconnect / 2 / chip.devices if chip.interconnect else float("inf")
    return Roofline(
        products=hardware_flops / devices / chip.device_flops,
        memory=2 * peak / (chip.bandwidth / chip.devices),
        collectives=sent / links,
    )
