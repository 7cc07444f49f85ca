"""The report of a plan: a tree of plain values, and the same as text."""

from typing import NotRequired, TypedDict

from dalle_jax.parallel.chips import Chip
from dalle_jax.plan import roofline
from dalle_jax.plan.collectives import traffic
from dalle_jax.plan.compile import Planned, Program
from dalle_jax.plan.search import Batch, Slice
from dalle_jax.plan.topologies import Topology, versions

GIB = 2**30

RESERVED = 0.02
"""The share of a chip's usable memory that a plan leaves free.

It is for memory that no compiled program counts: runtime buffers and the next batch.
"""


class RooflineReport(TypedDict):
    """The bounds of a step's time in seconds, with the MFU at the lower bound."""

    products_seconds: float
    memory_seconds: float
    collectives_seconds: float
    least_seconds: float
    most_seconds: float
    bound_by: str
    mfu_at_least_seconds: float
    assumptions: list[str]


class ProgramReport(TypedDict):
    """The memory of a program, per device, and the compiler's refusal if it was not compiled.

    ``quick`` is as in ``Program``.
    """

    versions: dict[str, str]
    quick: bool
    peak_bytes: int
    compiled: bool
    refused: str | None
    fits: bool
    compile_seconds: float
    uncounted: list[str]


class BatchReport(TypedDict):
    """The largest batch that is known to fit, and the smallest that is known not to fit."""

    fits: int | None
    does_not_fit: int | None


class SliceReport(TypedDict):
    """A TPU slice on which the batch fits, with its mesh."""

    topology: str
    mesh: dict[str, int]
    peak_bytes: int


class Suggestions(TypedDict):
    """The batch and the slice that a search found to fit. Without a search for it, the batch is missing."""

    largest_batch: NotRequired[BatchReport]
    smallest_slice: NotRequired[SliceReport | None]


class PlanReport(ProgramReport, Suggestions):
    """The report of a training step and of its initialisation; memory is per device."""

    topology: str
    chips: int
    devices: int
    devices_of_a_chip: int
    mesh: dict[str, int]
    batch: int
    accumulate: int
    parameters: int
    whole_model_bytes: int
    state_bytes: int
    argument_bytes: int
    temporary_bytes: int
    initialisation_peak_bytes: int | None
    memory_bytes: int
    room_bytes: int
    model_flops: float
    hardware_flops: float
    collectives: NotRequired[dict[str, dict[str, int | float]]]
    loops_of_unknown_length: NotRequired[list[str]]
    roofline: NotRequired[RooflineReport]
    config: NotRequired[str]
    not_checked: NotRequired[list[str]]


def room(chip: Chip) -> int:
    """Return the bytes of device memory that a program may use: all but the share ``RESERVED``."""
    return int((chip.usable or chip.device_memory) * (1 - RESERVED))


def step_report(planned: Planned, topology: Topology, batch: int, step: Program, start: Program | None) -> PlanReport:
    """Return the report of a step and of the initialisation. ``start`` is None if the latter was not compiled."""
    chip, mesh = topology.chip, planned.layout.mesh
    model = planned.model_flops(batch)
    report: PlanReport = {
        "versions": versions(),
        "quick": step.quick,
        "topology": str(topology),
        "chips": topology.chips,
        "devices": mesh.size,
        "devices_of_a_chip": chip.devices,
        "mesh": dict(mesh.shape),
        "batch": batch,
        "accumulate": planned.trainer.accumulate,
        "parameters": planned.parameters,
        "whole_model_bytes": planned.whole_bytes,
        "state_bytes": planned.state_bytes,
        "peak_bytes": step.peak,
        "argument_bytes": step.arguments,
        "temporary_bytes": step.temporaries,
        "initialisation_peak_bytes": None if start is None else start.peak,
        "memory_bytes": chip.device_memory,
        "room_bytes": room(chip),
        "compiled": step.text is not None,
        "refused": step.refused,
        "fits": start is not None and fits(step, chip) and fits(start, chip),
        "compile_seconds": round(step.seconds, 1),
        "model_flops": model.total,
        "hardware_flops": step.flops.total,
        "uncounted": sorted(model.uncounted | step.flops.uncounted),
    }
    if step.text is not None:
        found = traffic(step.text, mesh.size)
        report["collectives"] = found.by_kind()
        report["loops_of_unknown_length"] = list(found.loops)
        report["roofline"] = _roofline(chip, mesh.size, step, model.total, found.sent)
    return report


def _roofline(chip: Chip, devices: int, step: Program, model_flops: float, sent: float) -> RooflineReport:
    line = roofline.roofline(chip, devices, step.flops.total, step.peak, sent)
    return {
        "products_seconds": line.products,
        "memory_seconds": line.memory,
        "collectives_seconds": line.collectives,
        "least_seconds": line.least,
        "most_seconds": line.most,
        "bound_by": line.bound_by,
        "mfu_at_least_seconds": model_flops / (line.least * devices * chip.device_flops),
        "assumptions": list(roofline.ASSUMPTIONS),
    }


def fits(program: Program, chip: Chip) -> bool:
    """Return True if the program compiled and its peak memory is at most ``room(chip)``."""
    return program.text is not None and program.peak <= room(chip)


def suggestions(batch: Batch | None, found: Slice | None) -> Suggestions:
    """Return the entries of the report about the largest batch and the smallest slice that fit."""
    report: Suggestions = {}
    if batch is not None:
        report["largest_batch"] = {"fits": batch.fits, "does_not_fit": batch.does_not}
    report["smallest_slice"] = None
    if found is not None:
        mesh = {"data": found.mesh.data, "fsdp": found.mesh.fsdp, "tensor": found.mesh.tensor}
        report["smallest_slice"] = {"topology": str(found.topology), "mesh": mesh, "peak_bytes": found.peak}
    return report


def compiler_text(report: ProgramReport) -> str:
    """Return the versions of the compiler, and that it spent the least effort if it did."""
    found = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return found + (", least effort" if report["quick"] else "")


def format_text(report: PlanReport) -> str:
    """Format a report as lines of text."""
    device = "chip" if report["devices_of_a_chip"] == 1 else "device (half a chip)"
    mesh = " ".join(f"{axis}={size}" for axis, size in report["mesh"].items())
    rows = [
        ("slice", f"{report['topology']}, {report['chips']} chips, {report['devices']} devices, mesh {mesh}"),
        ("batch", f"{report['batch']}, in microbatches of {report['batch'] // report['accumulate']}"),
        ("parameters", f"{report['parameters']:,} ({gib(report['whole_model_bytes'])} whole)"),
        (f"state on a {device}", gib(report["state_bytes"])),
        (f"peak of a step on a {device}", peak_text(report)),
        (f"memory of a {device}", f"{gib(report['memory_bytes'])}, of which a plan uses {gib(report['room_bytes'])}"),
        ("model FLOPs of a step", f"{report['model_flops']:.4g}"),
        ("hardware FLOPs of a step", f"{report['hardware_flops']:.4g}"),
    ]  # fmt: skip
    if report["initialisation_peak_bytes"] is not None:
        rows.insert(5, (f"peak of the initialisation on a {device}", gib(report["initialisation_peak_bytes"])))
    if report["uncounted"]:
        rows.append(("not counted", ", ".join(report["uncounted"])))
    for kind, row in report.get("collectives", {}).items():
        text = f"{gib(row['bytes'])} in {row['runs']:,} runs of {row['operations']}, {gib(row['sent'])} sent by each"
        rows.append((kind, text))
    if "roofline" in report:
        rows += _time(report["roofline"])
    if report.get("loops_of_unknown_length"):
        rows.append(("loops counted as if run once", ", ".join(report["loops_of_unknown_length"])))
    rows += [("not checked", note) for note in report.get("not_checked", [])]
    rows.append(("compiled with", compiler_text(report)))
    rows += _verdict(report)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _time(line: RooflineReport) -> list[tuple[str, str]]:
    parts = (
        f"products {line['products_seconds']:.3g}, memory {line['memory_seconds']:.3g}, "
        f"collectives {line['collectives_seconds']:.3g}"
    )
    rows = [
        ("seconds of a step", f"{line['least_seconds']:.3g} to {line['most_seconds']:.3g} ({parts})"),
        ("MFU at the least", f"{line['mfu_at_least_seconds']:.0%}, bound by {line['bound_by']}"),
    ]
    return rows + [("  assuming that", text) for text in line["assumptions"]]


def _verdict(report: PlanReport) -> list[tuple[str, str]]:
    if report["fits"]:
        return [("fits", "yes")]
    rows = [("fits", "no")]
    batch = report.get("largest_batch")
    if batch is not None:
        if batch["fits"] is None:
            rows.append(("largest batch here", f"none: {batch['does_not_fit']} does not fit"))
        else:
            rows.append(("largest batch here", f"{batch['fits']} fits, {batch['does_not_fit']} does not"))
    if "smallest_slice" in report:
        found = report["smallest_slice"]
        text = "none of the family, with this batch"
        if found is not None:
            mesh = " ".join(f"mesh.{axis}={size}" for axis, size in found["mesh"].items())
            text = f"{found['topology']} with {mesh}: {gib(found['peak_bytes'])}"
        rows.append(("smallest slice that fits", text))
    return rows


def peak_text(program: ProgramReport) -> str:
    """Format the peak of a program, and the compiler's refusal."""
    return gib(program["peak_bytes"]) + ("" if program["compiled"] else f", {program['refused']}")


def gib(count: int | float) -> str:
    """Format bytes."""
    return f"{count / GIB:.2f} GiB"
