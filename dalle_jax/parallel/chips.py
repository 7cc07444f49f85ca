"""What the makers publish of their chips: the peaks that utilisation and plans are measured against.

Each figure is that of one chip, dense (no sparsity), as the page or data sheet named in ``source`` gives it. A chip may
be several devices to jax, each with its share. What is not in the table is None: nothing here is guessed.
"""

from dataclasses import dataclass

GB, GIB = 10**9, 2**30

TPU_PAGES = "docs.cloud.google.com/tpu/docs/"


@dataclass(frozen=True)
class Chip:
    """One chip.

    ``flops`` are bfloat16 FLOP/s, ``memory`` bytes of HBM (or GDDR), ``bandwidth`` bytes/s of that memory,
    ``interconnect`` bytes/s over all links between chips, both directions together as makers publish it, None where
    there is no link. ``kinds`` are the values of ``jax.Device.device_kind``; ``devices`` is how many devices of jax one
    chip is.
    """

    name: str
    flops: float
    memory: int
    bandwidth: float
    interconnect: float | None
    kinds: tuple[str, ...]
    source: str
    devices: int = 1

    @property
    def device_flops(self) -> float:
        """bfloat16 FLOP/s of one device of jax."""
        return self.flops / self.devices

    @property
    def device_memory(self) -> int:
        """Bytes of memory of one device of jax."""
        return self.memory // self.devices


CHIPS = (
    Chip("v4", 275e12, 32 * GIB, 1200e9, 600e9, ("TPU v4",),
         f"{TPU_PAGES}v4; the links from arXiv 2304.01433, table 4: 6 of 50 GB/s each way"),
    Chip("v5e", 197e12, 16 * GB, 819e9, 400e9, ("TPU v5 lite", "TPU v5e"), f"{TPU_PAGES}v5e"),
    Chip("v5p", 459e12, 95 * GIB, 2765e9, 1200e9, ("TPU v5", "TPU v5p"),
         f"{TPU_PAGES}tpu7x, which has a column for v5p"),
    Chip("v6e", 918e12, 32 * GIB, 1638e9, 800e9, ("TPU v6 lite", "TPU v6e"),
         f"{TPU_PAGES}tpu7x, which has a column for v6e"),
    Chip("tpu7x", 2307e12, 192 * GIB, 7380e9, 1200e9, ("TPU7x",), f"{TPU_PAGES}tpu7x", devices=2),
    Chip("A100-40GB", 312e12, 40 * GB, 1555e9, 600e9, ("NVIDIA A100-SXM4-40GB",),
         "NVIDIA A100 data sheet, SXM 40 GB"),
    Chip("A100-80GB", 312e12, 80 * GB, 2039e9, 600e9, ("NVIDIA A100-SXM4-80GB",),
         "NVIDIA A100 data sheet, SXM 80 GB"),
    Chip("H100", 989.4e12, 80 * GB, 3350e9, 900e9, ("NVIDIA H100 80GB HBM3",),
         "NVIDIA H100 data sheet, SXM: half of 1,979 TFLOP/s with sparsity"),
    Chip("H100-PCIe", 756e12, 80 * GB, 2000e9, 600e9, ("NVIDIA H100 PCIe",),
         "NVIDIA H100 PCIe data sheet: half of 1,513 TFLOP/s with sparsity"),
    Chip("H200", 989.4e12, 141 * GB, 4800e9, 900e9, ("NVIDIA H200",),
         "NVIDIA H200 data sheet, SXM: half of 1,979 TFLOP/s with sparsity"),
    Chip("B200", 2250e12, 180 * GB, 8000e9, 1800e9, ("NVIDIA B200",),
         "NVIDIA DGX B200 data sheet, an eighth of the system: half of 4.5 PFLOP/s with sparsity"),
    Chip("L4", 121e12, 24 * GB, 300e9, None, ("NVIDIA L4",),
         "NVIDIA L4 data sheet: half of 242 TFLOP/s with sparsity"),
)  # fmt: skip


def chip_of(device_kind: str) -> Chip | None:
    """The chip that a ``jax.Device.device_kind`` is (of), or None for one that is not in the table (a CPU, say)."""
    return next((chip for chip in CHIPS if device_kind in chip.kinds), None)


def chip_named(name: str) -> Chip | None:
    """The chip of that name, None where the table has none."""
    return next((chip for chip in CHIPS if chip.name == name), None)
