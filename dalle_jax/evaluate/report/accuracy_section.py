"""Tables, charts and sentences of the page's section on compositional accuracy."""

from dataclasses import dataclass

from dalle_jax.evaluate.metrics.composition import RERANKED_COUNTS, SPLITS, Cell, Composition, Split, level_name
from dalle_jax.evaluate.metrics.shares import Share
from dalle_jax.evaluate.report.charts import Chart, Line, Number
from dalle_jax.evaluate.report.formats import format_value
from dalle_jax.evaluate.report.run_report import RunReport
from dalle_jax.evaluate.suites.findings import GuidancePoint

SPLIT_NAMES: dict[Split, str] = {
    "seen": "seen",
    "held_out": "held out",
    "prompted": "held out, in prompts",
    "unnamed": "held out, in no prompt",
}
WEAKEST = 3
"""The page describes this number of cells, those with the lowest accuracy, in a sentence each."""


@dataclass(frozen=True)
class ShareCell:
    """A share and its path in ``metrics.json``. A share of None was not measured."""

    path: str
    share: Share | None


@dataclass(frozen=True)
class ShareRow:
    """A row of shares with a title, a small note, or both. ``count``, if not None, is shown in a column of its own."""

    title: str
    note: str
    cells: tuple[ShareCell, ...]
    count: int | None = None


@dataclass(frozen=True)
class ShareTable:
    """A table of shares, such as accuracies. The headings may contain line breaks."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[ShareRow, ...]


@dataclass(frozen=True)
class AccuracySection:
    """Content of the section: accuracy per level and split, by part of the caption, and by guidance scale."""

    table: ShareTable | None
    candidates_charts: tuple[Chart, ...]
    parts: ShareTable | None
    guidance: ShareTable | None
    guidance_charts: tuple[Chart, ...]


def accuracy_section(report: RunReport) -> AccuracySection | None:
    """Return the section's content, or None if neither composition nor guidance was measured."""
    composition = report.composition
    measured = composition is not None and bool(composition.cells)
    if not measured and not report.guidance:
        return None
    charts = [_candidates_chart(composition, level) for level in composition.levels] if composition else []
    return AccuracySection(
        table=_table(report, composition) if composition and measured else None,
        candidates_charts=tuple(chart for chart in charts if any(len(line.points) > 1 for line in chart.lines)),
        parts=_parts(composition) if composition and measured else None,
        guidance=_guidance(report) if report.guidance else None,
        guidance_charts=_guidance_charts(report) if len(report.guidance) > 1 else (),
    )


def level_title(report: RunReport, level: int) -> str:
    """Return a level with its description, "Level 2: two objects and a relation"."""
    description = dict(report.level_titles).get(level)
    return f"Level {level}: {description}" if description else f"Level {level}"


def weakest(report: RunReport) -> tuple[str, ...]:
    """Return a sentence on each of the cells with the lowest accuracy.

    It gives the number of errors, the weakest part, and how often CLIP missed a right candidate.
    """
    if report.composition is None:
        return ()
    cells = [cell for cell in report.composition.cells if cell.chosen.count and cell.chosen.right < cell.chosen.count]
    cells.sort(key=lambda cell: (cell.chosen.value or 0.0, cell.level))
    return tuple(_weakness(report, cell) for cell in cells[:WEAKEST])


def _weakness(report: RunReport, cell: Cell) -> str:
    choice = f"CLIP's choice of {cell.chosen_of}" if cell.chosen_of > 1 else "the first candidate"
    wrong = cell.chosen.count - cell.chosen.right
    place = f"{level_title(report, cell.level)}, {SPLIT_NAMES[cell.split]}"
    out = f"{place}: {choice} is wrong for {wrong} of {cell.chosen.count} captions."
    parts = [part for part in cell.parts if part.chosen.count and part.chosen.right < part.chosen.count]
    if parts:
        part = min(parts, key=lambda part: part.chosen.value or 0.0)
        out += f" The weakest part is “{part.name}”, right in {format_value(part.chosen.value, 'percent')}."
    best = cell.any_of.get(cell.chosen_of)
    if best is not None and best.right > cell.chosen.right:
        missed = best.right - cell.chosen.right
        out += f" For {missed} of them a candidate is right that CLIP did not choose."
    return out


def _table(report: RunReport, composition: Composition) -> ShareTable:
    reranked = [n for n in RERANKED_COUNTS if any(n in cell.reranked for cell in composition.cells)]
    any_of = sorted({n for cell in composition.cells for n in cell.any_of})
    columns = ["first", *(f"reranked_{n}" for n in reranked), *(f"any_of_{n}" for n in any_of)]
    head = ["Captions", "Number", "First\ncandidate", *(f"CLIP’s\nchoice of {n}" for n in reranked)]
    head += [f"Any of {n}" for n in any_of]
    rows = []
    for cell in composition.cells:
        shares = cell.figures()
        base = f"composition/{level_name(cell.level)}/{cell.split}"
        cells = tuple(ShareCell(f"{base}/{column}", shares.get(column)) for column in columns)
        rows.append(ShareRow(level_title(report, cell.level), SPLIT_NAMES[cell.split], cells, cell.first.count))
    caption = "Share of captions with an image that is right in every part; small: 95 % Wilson interval in %"
    return ShareTable(caption, tuple(head), tuple(rows))


def _candidates_chart(composition: Composition, level: int) -> Chart:
    lines, counts = [], {1}
    for split in SPLITS:
        cell = composition.cell(level, split)
        if cell is None or cell.first.value is None:
            continue
        for name, shares in (("CLIP’s choice", cell.reranked), ("any right", cell.any_of)):
            points = [(1.0, cell.first.value)]
            points += [(float(n), found.value) for n, found in shares.items() if found.value is not None]
            lines.append(Line(f"{SPLIT_NAMES[split]}: {name}", tuple(points)))
            counts |= set(shares)
    ticks = tuple(float(n) for n in sorted(counts))
    return Chart(f"Level {level}", "candidates", tuple(lines), log_x=True, percent=True, x_ticks=ticks)


def _parts(composition: Composition) -> ShareTable:
    rows = []
    splits = [split for split in SPLITS if any(cell.split == split for cell in composition.cells)]
    for level in composition.levels:
        cells = {split: composition.cell(level, split) for split in splits}
        names = dict.fromkeys(part.name for cell in cells.values() if cell for part in cell.parts)
        for name in names:
            shares: list[ShareCell] = []
            for split, cell in cells.items():
                shares += _part_cells(cell, name, f"composition/{level_name(level)}/{split}/parts/{name}")
            rows.append(ShareRow(name, f"level {level}", tuple(shares)))
    largest = max(cell.chosen_of for cell in composition.cells)
    choice = f"CLIP’s choice of {largest}" if largest > 1 else "CLIP’s choice"
    titles = [SPLIT_NAMES[split].capitalize() for split in splits]
    head = ("Part", *(f"{title}\n{column}" for title in titles for column in ("first", choice)))
    return ShareTable("Accuracy of each part of the captions, counted apart from the other parts", head, tuple(rows))


def _part_cells(cell: Cell | None, name: str, path: str) -> list[ShareCell]:
    part = next((part for part in cell.parts if part.name == name), None) if cell else None
    if cell is None or part is None:
        return [ShareCell("", None)] * 2
    chosen = part.chosen if cell.chosen_of > 1 else None
    return [ShareCell(f"{path}/first", part.first), ShareCell(f"{path}/reranked_{cell.chosen_of}", chosen)]


def _guidance(report: RunReport) -> ShareTable:
    """Return accuracy by guidance scale: a column per level and split, up to two rows per scale."""
    keys = _guidance_keys(report)
    rows = [row for point in report.guidance for row in _guidance_rows(point, keys)]
    counts = sorted({cell.first.count for point in report.guidance for cell in point.composition.cells})
    caption = f"{' or '.join(map(str, counts))} captions per figure; small: 95 % Wilson interval in %"
    head = ("Guidance scale", *(f"Level {level}\n{SPLIT_NAMES[split]}" for level, split in keys))
    return ShareTable(caption, head, tuple(rows))


def _guidance_keys(report: RunReport) -> list[tuple[int, Split]]:
    order = sorted({(cell.level, SPLITS.index(cell.split)) for p in report.guidance for cell in p.composition.cells})
    return [(level, SPLITS[split]) for level, split in order]


def _guidance_rows(point: GuidancePoint, keys: list[tuple[int, Split]]) -> list[ShareRow]:
    """Return a row for the first candidate.

    If several were drawn, add a row for CLIP's choice of each number of them.
    """
    cells = [point.composition.cell(level, split) for level, split in keys]
    bases = [f"guidance/{point.scale:g}/{level_name(level)}/{split}" for level, split in keys]
    pairs = list(zip(cells, bases, strict=True))
    first = tuple(ShareCell(f"{base}/first", cell.first if cell else None) for cell, base in pairs)
    rows = [ShareRow(f"{point.scale:g}", "first candidate", first)]
    for n in sorted({cell.chosen_of for cell in cells if cell and cell.reranked}):
        shares = tuple(
            ShareCell(f"{base}/reranked_{n}", cell.reranked.get(n) if cell else None) for cell, base in pairs
        )
        rows.append(ShareRow("", f"CLIP’s choice of {n}", shares))
    return rows


def _guidance_charts(report: RunReport) -> tuple[Chart, ...]:
    """Return a chart for each split, with a line for each level."""
    scales = tuple(point.scale for point in report.guidance)
    measured = {split for _, split in _guidance_keys(report)}
    return tuple(_guidance_chart(report, split, scales) for split in SPLITS if split in measured)


def _guidance_chart(report: RunReport, split: Split, scales: tuple[Number, ...]) -> Chart:
    points: dict[int, list[tuple[Number, Number]]] = {}
    for point in report.guidance:
        for cell in point.composition.cells:
            if cell.split == split and cell.first.value is not None:
                points.setdefault(cell.level, []).append((point.scale, cell.first.value))
    lines = tuple(Line(f"level {level}", tuple(points[level])) for level in sorted(points))
    return Chart(f"First candidate right, {SPLIT_NAMES[split]}", "guidance scale", lines, percent=True, x_ticks=scales)
