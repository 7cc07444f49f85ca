"""A plan as one tree of plain values, and the same in words."""

from collections.abc import Mapping
from typing import Any

from dalle_jax.parallel.chips import Chip
from dalle_jax.plan import roofline
from dalle_jax.plan.collectives import traffic
from dalle_jax.plan.compile import Planned, Program
from dalle_jax.plan.search import Batch, Slice
from dalle_jax.plan.topologies import Topology, versions

GIB = 2**30

RESERVED = 0.02
"""Share of the usable memory that a plan leaves free: the runtime's buffers and the next batch are in no program."""


def room(chip: Chip) -> int:
    """Bytes of one device that a program may take."""
    return int((chip.usable or chip.device_memory) * (1 - RESERVED))


def step_report(
    planned: Planned, topology: Topology, batch: int, step: Program, start: Program | None
) -> dict[str, Any]:
    """What is known of a step and of the initialisation, where it was compiled; everything of memory is of a device."""
    chip, mesh = topology.chip, planned.layout.mesh
    model = planned.model_flops(batch)
    report: dict[str, Any] = {
        "versions": versions(),
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
        report |= _speed(chip, mesh.size, step, model.total)
    return report


def _speed(chip: Chip, devices: int, step: Program, model_flops: float) -> dict[str, Any]:
    assert step.text is not None
    found = traffic(step.text, devices)
    line = roofline.roofline(chip, devices, step.flops.total, step.peak, found.sent)
    return {
        "collectives": found.by_kind(),
        "loops_of_unknown_length": list(found.loops),
        "roofline": {
            "products_seconds": line.products,
            "memory_seconds": line.memory,
            "collectives_seconds": line.collectives,
            "least_seconds": line.least,
            "most_seconds": line.most,
            "bound_by": line.bound_by,
            "mfu_at_least_seconds": model_flops / (line.least * devices * chip.device_flops),
            "assumptions": list(roofline.ASSUMPTIONS),
        },
    }


def sampler_report(prompts: int, program: Program, chip: Chip) -> dict[str, Any]:
    """What is known of the sampler; everything of memory is of one device."""
    return {
        "prompts": prompts,
        "peak_bytes": program.peak,
        "compiled": program.text is not None,
        "refused": program.refused,
        "fits": fits(program, chip),
        "flops": program.flops.total,
        "uncounted": sorted(program.flops.uncounted),
        "compile_seconds": round(program.seconds, 1),
    }


def fits(program: Program, chip: Chip) -> bool:
    """Whether a program was accepted by the compiler and leaves the runtime its share."""
    return program.text is not None and program.peak <= room(chip)


def suggestions(batch: Batch | None, found: Slice | None) -> dict[str, Any]:
    """What would fit."""
    report: dict[str, Any] = {}
    if batch is not None:
        report["largest_batch"] = {"fits": batch.fits, "does_not_fit": batch.does_not}
    report["smallest_slice"] = None
    if found is not None:
        mesh = {"data": found.mesh.data, "fsdp": found.mesh.fsdp, "tensor": found.mesh.tensor}
        report["smallest_slice"] = {"topology": str(found.topology), "mesh": mesh, "peak_bytes": found.peak}
    return report


def format_text(report: Mapping[str, Any]) -> str:
    """The report as lines to read."""
    device = "chip" if report["devices_of_a_chip"] == 1 else "device (half a chip)"
    mesh = " ".join(f"{axis}={size}" for axis, size in report["mesh"].items())
    rows = [
        ("slice", f"{report['topology']}, {report['chips']} chips, {report['devices']} devices, mesh {mesh}"),
        ("batch", f"{report['batch']}, in parts of {report['batch'] // report['accumulate']}"),
        ("parameters", f"{report['parameters']:,} ({_gib(report['whole_model_bytes'])} whole)"),
        (f"state on a {device}", _gib(report["state_bytes"])),
        (f"peak of a step on a {device}", _peak(report)),
        (f"memory of a {device}", f"{_gib(report['memory_bytes'])}, of which a plan uses {_gib(report['room_bytes'])}"),
        ("model FLOPs of a step", f"{report['model_flops']:.4g}"),
        ("hardware FLOPs of a step", f"{report['hardware_flops']:.4g}"),
    ]  # fmt: skip
    if report["initialisation_peak_bytes"] is not None:
        rows.insert(5, (f"peak of the initialisation on a {device}", _gib(report["initialisation_peak_bytes"])))
    if report["uncounted"]:
        rows.append(("not counted", ", ".join(report["uncounted"])))
    for kind, row in report.get("collectives", {}).items():
        text = f"{_gib(row['bytes'])} in {row['runs']:,} runs of {row['operations']}, {_gib(row['sent'])} sent by each"
        rows.append((kind, text))
    if "roofline" in report:
        rows += _time(report["roofline"])
    if report.get("loops_of_unknown_length"):
        rows.append(("loops counted as if run once", ", ".join(report["loops_of_unknown_length"])))
    rows += _sampled(report.get("sampler"))
    rows += [("not checked", note) for note in report.get("not_checked", ())]
    rows.append(("compiled with", ", ".join(f"{name} {version}" for name, version in report["versions"].items())))
    rows += _verdict(report)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _time(line: Mapping[str, Any]) -> list[tuple[str, str]]:
    parts = ", ".join(f"{name} {line[f'{name}_seconds']:.3g}" for name in ("products", "memory", "collectives"))
    rows = [
        ("seconds of a step", f"{line['least_seconds']:.3g} to {line['most_seconds']:.3g} ({parts})"),
        ("MFU at the least", f"{line['mfu_at_least_seconds']:.0%}, bound by {line['bound_by']}"),
    ]
    return rows + [("  assuming that", text) for text in line["assumptions"]]


def _sampled(sampler: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if sampler is None:
        return []
    rows = [(f"sampler of {sampler['prompts']} prompts", f"peak {_peak(sampler)}, {sampler['flops']:.4g} FLOPs")]
    if sampler["uncounted"]:
        rows.append(("not counted of it", ", ".join(sampler["uncounted"])))
    return rows


def _verdict(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    if report["fits"] and report.get("sampler", {}).get("fits", True):
        return [("fits", "yes")]
    rows = [("fits", "no")]
    batch = report.get("largest_batch")
    if batch is not None:
        if batch["fits"] is None:
            rows.append(("largest batch here", f"none: not even {batch['does_not_fit']}"))
        else:
            rows.append(("largest batch here", f"{batch['fits']} fits, {batch['does_not_fit']} does not"))
    if "smallest_slice" in report:
        found = report["smallest_slice"]
        text = "none of the family's, with the batch as it is"
        if found is not None:
            mesh = " ".join(f"mesh.{axis}={size}" for axis, size in found["mesh"].items())
            text = f"{found['topology']} with {mesh}: {_gib(found['peak_bytes'])}"
        rows.append(("smallest slice that would do", text))
    return rows


def _peak(program: Mapping[str, Any]) -> str:
    return _gib(program["peak_bytes"]) + ("" if program["compiled"] else f", {program['refused']}")


def _gib(count: int | float) -> str:
    return f"{count / GIB:.2f} GiB"
