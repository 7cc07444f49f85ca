"""Published peak FLOP/s, memory and bandwidth of TPUs and GPUs, from which utilisation and plans are computed.

Each number is for one chip, without sparsity. ``source`` names the pages from which it was read (as stored copies), and
says "not checked" for a number that no page confirms. The numbers of TPUs are from Google's pages, except the bandwidth
of the links of v4. NVIDIA's data sheets were not available, so the numbers of its GPUs are from other pages, most of
which cite the data sheets. JAX may show one chip as several devices, each with an equal share of it. ``chip_of``
returns None for an unknown chip and never guesses.
"""

from dataclasses import dataclass

GB, GIB = 10**9, 2**30

TPU_PAGES = "docs.cloud.google.com/tpu/docs/"
ML_ENGINEERING = "github.com/stas00/ml-engineering, compute/accelerator and network"
PROCESSORS = "glennklockwood.com/garden/processors/"
GPU_SPECS = "github.com/winston-zhang-orz/gpu-specs"


@dataclass(frozen=True)
class Chip:
    """The published peak numbers of one chip.

    flops         bfloat16 FLOP/s
    memory        bytes of HBM (or GDDR)
    bandwidth     bytes/s of that memory
    interconnect  bytes/s over all links between chips, both directions together; None without links
    kinds         values of ``jax.Device.device_kind``
    source        pages that the numbers are from
    devices       number of JAX devices per chip
    usable        bytes per device that libtpu 0.0.42 allows a program, from its error message; None if unknown
    """

    name: str
    flops: float
    memory: int
    bandwidth: float
    interconnect: float | None
    kinds: tuple[str, ...]
    source: str
    devices: int = 1
    usable: int | None = None

    @property
    def device_flops(self) -> float:
        """The bfloat16 FLOP/s of one JAX device."""
        return self.flops / self.devices

    @property
    def device_memory(self) -> int:
        """The bytes of memory of one JAX device."""
        return self.memory // self.devices


CHIPS = (
    Chip("v4", 275e12, 32 * GIB, 1200e9, 600e9, ("TPU v4",),
         f"{TPU_PAGES}v4; the links, 6 of 50 GB/s each way, as others quote arXiv 2304.01433, table 4",
         usable=int(30.75 * GIB)),
    Chip("v5e", 197e12, 16 * GIB, 819e9, 400e9, ("TPU v5 lite", "TPU v5e"),
         f"{TPU_PAGES}v5e, of which another version has 800 GiB/s of bandwidth; its 16 GB are taken for GiB, since "
         "libtpu offers 15.75 GiB of them", usable=int(15.75 * GIB)),
    Chip("v5p", 459e12, 95 * GIB, 2765e9, 1200e9, ("TPU v5", "TPU v5p"),
         f"{TPU_PAGES}tpu7x, which has a column for v5p", usable=int(95.74 * GIB)),
    Chip("v6e", 918e12, 32 * GIB, 1638e9, 800e9, ("TPU v6 lite", "TPU v6e"),
         f"{TPU_PAGES}tpu7x, which has a column for v6e", usable=int(31.25 * GIB)),
    Chip("tpu7x", 2307e12, 192 * GIB, 7380e9, 1200e9, ("TPU7x",), f"{TPU_PAGES}tpu7x", devices=2,
         usable=int(94.75 * GIB)),
    Chip("A100-40GB", 312e12, 40 * GB, 1555e9, 600e9, ("NVIDIA A100-SXM4-40GB",),
         f"{PROCESSORS}A100, which cites NVIDIA's data sheet"),
    Chip("A100-80GB", 312e12, 80 * GB, 2039e9, 600e9, ("NVIDIA A100-SXM4-80GB",),
         f"{PROCESSORS}A100, which cites NVIDIA's data sheet"),
    Chip("H100", 989e12, 80 * GB, 3350e9, 900e9, ("NVIDIA H100 80GB HBM3",),
         f"{ML_ENGINEERING}, SXM, which cites nvidia.com/en-us/data-center/h100"),
    Chip("H100-PCIe", 756e12, 80 * GB, 2000e9, 600e9, ("NVIDIA H100 PCIe",),
         f"{ML_ENGINEERING}; half of 1,513 TFLOP/s with sparsity of {GPU_SPECS}; "
         "the links, a bridge between two cards, not checked against a page: the maker's usual figure"),
    Chip("H200", 989e12, 141 * GB, 4800e9, 900e9, ("NVIDIA H200",),
         f"{ML_ENGINEERING}, SXM, which cites nvidia.com/en-us/data-center/h200"),
    Chip("B200", 2250e12, 180 * GB, 8000e9, 1800e9, ("NVIDIA B200",),
         f"{ML_ENGINEERING}; half of 4.5 PFLOP/s with sparsity of {PROCESSORS}B200; "
         "the memory also from docs.nvidia.com/nim/bionemo/boltz2, where other pages have 192 GB"),
    Chip("L4", 121e12, 24 * GB, 300e9, None, ("NVIDIA L4",), f"{GPU_SPECS}: half of 242 TFLOP/s with sparsity"),
)  # fmt: skip


def chip_of(device_kind: str) -> Chip | None:
    """Return the chip of a ``jax.Device.device_kind``, or None for one that ``CHIPS`` does not have, such as a CPU."""
    return next((chip for chip in CHIPS if device_kind in chip.kinds), None)


def chip_named(name: str) -> Chip | None:
    """Return the chip of a name, or None for a name that ``CHIPS`` does not have."""
    return next((chip for chip in CHIPS if chip.name == name), None)
