"""The page of a run's report: one HTML file without scripts that loads no other files."""

from collections.abc import Sequence
from dataclasses import dataclass

from dalle_jax.evaluate.metrics.composition import level_name
from dalle_jax.evaluate.metrics.shares import Share
from dalle_jax.evaluate.report.accuracy_section import (
    SPLIT_NAMES,
    ShareCell,
    ShareRow,
    ShareTable,
    accuracy_section,
    level_title,
    weakest,
)
from dalle_jax.evaluate.report.environment import render
from dalle_jax.evaluate.report.formats import path_of
from dalle_jax.evaluate.report.machine import Machine
from dalle_jax.evaluate.report.run_report import Comparison, Figure, RunReport
from dalle_jax.evaluate.suites.findings import EditFindings, Sample, SampleGroup

STRIP_IMAGES = 16
"""Number of images in the strip at the top of the page."""


@dataclass(frozen=True)
class MeasureRow:
    """A measure of an edit: ``cell`` if it is a share of the cases, else ``number``."""

    title: str
    note: str
    path: str
    cell: ShareCell | None
    number: float | None


@dataclass(frozen=True)
class EditSection:
    """Content of the section on one thing that is done with images."""

    findings: EditFindings
    rows: tuple[MeasureRow, ...]


@dataclass(frozen=True)
class Section:
    """A section with its template ``sections/KEY.html.j2``; ``shown`` is False if it has no content.

    The section of an ``edit`` has the template ``sections/edit.html.j2``.
    """

    key: str
    title: str
    shown: bool
    edit: EditSection | None = None

    @property
    def template(self) -> str:
        """The name of the section's template."""
        return "edit" if self.edit is not None else self.key


@dataclass(frozen=True)
class ComparisonRow:
    """Numbers of one compared network in the order of the columns, with None for a number that it does not have."""

    name: str
    was_run: bool
    figures: tuple[Figure | None, ...]


def report_page(report: RunReport) -> str:
    """Return the page. Sections without content are left out, so a report of training alone is short."""
    accuracy = accuracy_section(report)
    limits = (*report.limits, *weakest(report))
    trained = tuple(stage for stage in report.stages if stage.charts or stage.note)
    sections = (
        Section("samples", "Samples", any(group.samples for group in report.samples)),
        Section("accuracy", "Accuracy", accuracy is not None),
        *(Section(one.name, one.title, True, _edit_section(one)) for one in report.edits),
        Section("limits", "Known failures", bool(limits)),
        Section("training", "Training", bool(trained)),
        Section("transformer", "Choice of transformer", report.comparison is not None),
        Section("tokenizer", "Reconstructions", bool(report.reconstructed) or report.reconstruction is not None),
        Section("reader", "Accuracy of the scene reader", bool(report.reader)),
        Section("times", "Durations and machine", True),
        Section("again", "Reproduction", True),
    )
    return render(
        "report.html.j2",
        report=report,
        sections=[section for section in sections if section.shown],
        strip=strip(report.samples),
        headline=headline(report),
        judged=any(sample.first.right is not None for group in report.samples for sample in group.samples),
        accuracy=accuracy,
        limits=limits,
        trained=trained,
        columns=_columns(report.comparison),
        compared=_comparison_rows(report.comparison),
        reconstruction_rows=_reconstruction_rows(report),
        reader=_reader_table(report),
        machine_facts=_machine_facts(report.machine),
    )


def headline(report: RunReport) -> tuple[Figure, ...]:
    """Return the numbers at the top of the page: accuracy per level, PSNR, ``report.figures`` and the duration."""
    out = []
    for cell in report.composition.cells if report.composition else ():
        name = f"reranked_{cell.chosen_of}" if cell.chosen_of in cell.reranked else "first"
        path = f"composition/{level_name(cell.level)}/{cell.split}/{name}"
        note = f"right, CLIP’s choice of {cell.chosen_of}" if name != "first" else "right, first candidate"
        label = f"Level {cell.level}, {SPLIT_NAMES[cell.split]}"
        out.append(Figure(path, label, cell.chosen.value, "percent", note))
    if report.reconstruction is not None:
        note = f"tokenizer PSNR over {report.reconstruction.count} images"
        out.append(Figure("reconstruction/psnr", "Reconstruction", report.reconstruction.psnr, "decibel", note))
    return (*out, *report.figures, Figure("wall_seconds", "Time", report.wall_seconds, "seconds", "the whole run"))


def strip(groups: Sequence[SampleGroup]) -> tuple[Sample, ...]:
    """Return the images of the strip: the first sample of each group, then the second of each, right or wrong."""
    longest = max((len(group.samples) for group in groups), default=0)
    turns = [group.samples[i] for i in range(longest) for group in groups if i < len(group.samples)]
    return tuple(turns[:STRIP_IMAGES])


def _edit_section(findings: EditFindings) -> EditSection:
    rows = []
    for one in findings.measures:
        path = path_of(f"edits.{findings.name}.{one.key}")
        if isinstance(one.value, Share):
            rows.append(MeasureRow(one.title, one.note, path, ShareCell(path, one.value), None))
        else:
            rows.append(MeasureRow(one.title, one.note, path, None, one.value))
    return EditSection(findings, tuple(rows))


def _columns(comparison: Comparison | None) -> dict[str, str]:
    """Return by path the label of each number that at least one compared network has."""
    columns: dict[str, str] = {}
    for contender in comparison.contenders if comparison else ():
        for figure in contender.figures:
            columns.setdefault(figure.path, figure.label)
    return columns


def _comparison_rows(comparison: Comparison | None) -> tuple[ComparisonRow, ...]:
    if comparison is None:
        return ()
    rows = []
    for contender in comparison.contenders:
        by_path = {figure.path: figure for figure in contender.figures}
        figures = tuple(by_path.get(path) for path in _columns(comparison))
        rows.append(ComparisonRow(contender.name, contender.name == comparison.chosen, figures))
    return tuple(rows)


def _reconstruction_rows(report: RunReport) -> tuple[ShareRow, ...]:
    """Return the scene reader's accuracy per level: on the image tokenizer's reconstructions, then on the originals."""
    measured = report.reconstruction
    if measured is None:
        return ()
    return tuple(
        ShareRow(
            "Read right",
            level_title(report, level),
            (
                ShareCell(f"reconstruction/still_right/{level_name(level)}", still),
                ShareCell(f"reconstruction/read_right/{level_name(level)}", measured.read_right.get(level)),
            ),
        )
        for level, still in measured.still_right.items()
    )


def _reader_table(report: RunReport) -> ShareTable:
    rows = tuple(
        ShareRow(
            check.title,
            "",
            (
                ShareCell(f"reader/{check.name}/true_accepted", check.true_accepted),
                ShareCell(f"reader/{check.name}/wrong_accepted", check.wrong_accepted),
                ShareCell(f"reader/{check.name}/other_accepted", check.other_accepted),
            ),
            check.true_accepted.count,
        )
        for check in report.reader
    )
    head = (
        "Images",
        "Number",
        "True captions accepted",
        "Captions with one wrong attribute accepted",
        "Captions of other scenes accepted",
    )
    caption = "Verdicts of the scene reader on captions that are known to be true or false"
    return ShareTable(caption, head, rows)


def _machine_facts(machine: Machine) -> dict[str, str]:
    return {
        "Processor": f"{machine.cpu}, {machine.cores} of {machine.cores_total} cores used",
        "Memory": f"{machine.memory_gib:g} GiB" if machine.memory_gib else "unknown",
        "Accelerators": machine.accelerators or "none",
        "System": machine.system,
        "Versions": ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
    }
