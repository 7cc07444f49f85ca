"""The report of a planned sampler: memory, cache, and a bound of the images per second."""

from dalle_jax.plan.collectives import traffic
from dalle_jax.plan.compile import Program
from dalle_jax.plan.planned_sampler import PlannedSampler, SampledBatch
from dalle_jax.plan.report import ProgramReport, compiler_text, fits, gib, peak_text, room
from dalle_jax.plan.roofline import Roofline
from dalle_jax.plan.topologies import Topology, versions

ASSUMPTIONS = (
    "every matrix product runs at the chip's dense bfloat16 peak",
    "each code reads all weights and the visible part of the cache once; a chip's memory does nothing else",
    "collectives run in rings over all links of a chip at once, in one direction (half of the published bandwidth)",
    "a collective takes no time to start; a step has several for each layer that is split",
    "the time lies between the longest of the three (all overlap) and their sum (no overlap)",
    "decoding codes to pixels and ranking are not included",
)

MILLION, MOST_CANDIDATES = 1_000_000, 512
"""The bulk that a report gives the time of: prompts, and images of each."""


class SamplerReport(ProgramReport):
    """The report of a sampler; memory is per device, with guidance. Rates are None if nothing was compiled."""

    topology: str
    chips: int
    devices: int
    mesh: dict[str, int]
    prompts: int
    candidates: int
    weight_bytes: int
    cache_bytes_per_prompt: int
    cache_bytes_per_image: int
    room_bytes: int
    flops: float
    largest_prompts: int | None
    products_seconds: float
    memory_seconds: float
    collectives_seconds: float | None
    bound_by: str | None
    images_per_second_per_chip: tuple[float, float] | None
    days_of_a_million_prompts: tuple[float, float] | None
    assumptions: list[str]


def sampler_report(
    planned: PlannedSampler, topology: Topology, batch: SampledBatch, program: Program, largest: int | None
) -> SamplerReport:
    """Return the report of a sampler that was compiled for a batch; ``largest`` is the number of prompts that fit."""
    chip, mesh = topology.chip, planned.layout.mesh
    line, rates = _roofline(planned, topology, batch, program), None
    if program.text is not None:
        rates = (batch.images / line.most / topology.chips, batch.images / line.least / topology.chips)
    days = None if rates is None else (_days(rates[1] * topology.chips), _days(rates[0] * topology.chips))
    return {
        "versions": versions(),
        "quick": program.quick,
        "topology": str(topology),
        "chips": topology.chips,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "prompts": batch.prompts,
        "candidates": batch.candidates,
        "weight_bytes": planned.weight_bytes,
        "cache_bytes_per_prompt": planned.cache_bytes.per_prompt,
        "cache_bytes_per_image": planned.cache_bytes.per_image,
        "room_bytes": room(chip),
        "peak_bytes": program.peak,
        "compiled": program.text is not None,
        "refused": program.refused,
        "fits": fits(program, chip),
        "compile_seconds": round(program.seconds, 1),
        "flops": program.flops.total,
        "uncounted": sorted(program.flops.uncounted),
        "largest_prompts": largest,
        "products_seconds": line.products,
        "memory_seconds": line.memory,
        "collectives_seconds": None if rates is None else line.collectives,
        "bound_by": None if rates is None else line.bound_by,
        "images_per_second_per_chip": rates,
        "days_of_a_million_prompts": days,
        "assumptions": list(ASSUMPTIONS),
    }


def _roofline(planned: PlannedSampler, topology: Topology, batch: SampledBatch, program: Program) -> Roofline:
    """Return the bounds of the seconds of a whole call."""
    chip, devices = topology.chip, planned.layout.mesh.size
    links = chip.interconnect / 2 / chip.devices if chip.interconnect else float("inf")
    step, grid = planned.step_bytes(batch), planned.generator.grid
    return Roofline(
        products=program.flops.total / devices / chip.device_flops,
        memory=(grid[0] * grid[1] - 1) * (step.weights + step.cache) / (chip.bandwidth / chip.devices),
        collectives=0.0 if program.text is None else traffic(program.text, devices).sent / links,
    )


def format_sampler(report: SamplerReport) -> str:
    """Format a report as lines of text."""
    mesh = " ".join(f"{axis}={size}" for axis, size in report["mesh"].items())
    rows = [
        ("slice", f"{report['topology']}, {report['chips']} chips, mesh {mesh}"),
        ("call", f"{report['prompts']} prompts with {report['candidates']} images each, guided"),
        ("weights on a device", gib(report["weight_bytes"])),
        ("cache of an image", _mib(report["cache_bytes_per_image"])),
        ("cache of a prompt", _mib(report["cache_bytes_per_prompt"])),
        ("peak on a device", f"{peak_text(report)} of {gib(report['room_bytes'])}"),
        ("FLOPs of a call", f"{report['flops']:.4g}"),
    ]
    if report["uncounted"]:
        rows.append(("not counted", ", ".join(report["uncounted"])))
    rates, days = report["images_per_second_per_chip"], report["days_of_a_million_prompts"]
    if rates is not None and days is not None:
        parts = f"products {report['products_seconds']:.3g}, memory {report['memory_seconds']:.3g}"
        parts += f", collectives {report['collectives_seconds']:.3g}"
        rows += [
            ("seconds of a call", f"{parts}; bound by {report['bound_by']}"),
            ("images/s on a chip", f"{rates[0]:.3g} to {rates[1]:.3g}"),
            ("512 images of 1,000,000 prompts", f"{days[0]:.3g} to {days[1]:.3g} days of the slice"),
        ]
        rows += [("  assuming that", text) for text in report["assumptions"]]
    if report["largest_prompts"] is not None:
        images = report["largest_prompts"] * report["candidates"]
        rows.append(("largest call that fits", f"{report['largest_prompts']} prompts, {images} images"))
    rows.append(("compiled with", compiler_text(report)))
    rows.append(("fits", "yes" if report["fits"] else "no"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _days(images_per_second: float) -> float:
    return MILLION * MOST_CANDIDATES / images_per_second / 86_400


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
