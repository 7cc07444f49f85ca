"""The part of the page that says how often pictures are right, what reranking gives, and where it fails."""

from html import escape

from dalle_jax.evaluate.metrics.composition import RERANKED_COUNTS, SPLITS, Cell, Composition, Split, level_name
from dalle_jax.evaluate.report.charts import Chart, Line, Number, svg
from dalle_jax.evaluate.report.formats import share, table, written
from dalle_jax.evaluate.report.run_report import GuidancePoint, Report

SPLIT_NAMES = {"seen": "seen", "held_out": "held out"}
WEAKEST = 3
"""How many of the weakest cells of the table are named in words."""


def level_title(report: Report, level: int) -> str:
    """The level with what it asks, "Level 2: two objects and a relation"."""
    words = dict(report.level_titles).get(level)
    return f"Level {level}: {words}" if words else f"Level {level}"


def accuracy(report: Report) -> str:
    """The table, the charts against the number of candidates, and the table of parts; empty without a composition."""
    composition = report.composition
    if composition is None or not composition.cells:
        return ""
    charts = [_candidates_chart(composition, level) for level in composition.levels]
    drawn = [chart for chart in charts if any(len(line.points) > 1 for line in chart.lines)]
    return (
        _table(report, composition)
        + (f'<h3>Against the number of candidates</h3><div class="charts">{figures(drawn)}</div>' if drawn else "")
        + f"<h3>Part by part</h3>{_parts(report, composition)}"
    )


def guidance(report: Report) -> str:
    """Right against the guidance scale: a column per level and split, two rows per scale, and a chart; or nothing."""
    if not report.guidance:
        return ""
    order = sorted({(cell.level, SPLITS.index(cell.split)) for p in report.guidance for cell in p.composition.cells})
    keys = [(level, SPLITS[split]) for level, split in order]
    rows = []
    for point in report.guidance:
        rows += _guidance_rows(point, keys)
    counts = sorted({cell.first.count for point in report.guidance for cell in point.composition.cells})
    text = f"{' or '.join(map(str, counts))} captions per figure; small: 95 % Wilson interval in %"
    head = ["Guidance scale", *(f"Level {level}<br>{SPLIT_NAMES[split]}" for level, split in keys)]
    scales = tuple(point.scale for point in report.guidance)
    charts = [_guidance_chart(report, split, scales) for split in SPLITS if any(split == other for _, other in keys)]
    drawn = f'<div class="charts">{figures(charts)}</div>' if len(scales) > 1 else ""
    return f"<h3>Against the guidance scale</h3>{table(head, rows, text)}{drawn}"


def figures(charts: list[Chart]) -> str:
    """Charts under their titles."""
    return "".join(
        f"<figure><figcaption>{escape(chart.title)}{' <small>(log scale)</small>' if chart.log_y else ''}</figcaption>"
        f"{svg(chart)}</figure>"
        for chart in charts
    )


def weakest(report: Report) -> tuple[str, ...]:
    """What the figures themselves say does not work yet, in sentences: the weakest cells, parts and choices."""
    if report.composition is None:
        return ()
    cells = [cell for cell in report.composition.cells if cell.chosen.count and cell.chosen.right < cell.chosen.count]
    cells.sort(key=lambda cell: (cell.chosen.value or 0.0, cell.level))
    return tuple(_weakness(report, cell) for cell in cells[:WEAKEST])


def _weakness(report: Report, cell: Cell) -> str:
    how = f"CLIP's choice of {cell.chosen_of}" if cell.chosen_of > 1 else "the first candidate"
    wrong = cell.chosen.count - cell.chosen.right
    where = f"{level_title(report, cell.level)}, {SPLIT_NAMES[cell.split]}"
    out = f"{where}: {how} is wrong for {wrong} of {cell.chosen.count} captions."
    parts = [part for part in cell.parts if part.chosen.count and part.chosen.right < part.chosen.count]
    if parts:
        part = min(parts, key=lambda part: part.chosen.value or 0.0)
        out += f" What fails most often is “{part.name}”, right in {written(part.chosen.value, 'percent')}."
    best = cell.any_of.get(cell.chosen_of)
    if best is not None and best.right > cell.chosen.right:
        missed = best.right - cell.chosen.right
        out += f" For {missed} of them a right picture was among the candidates and CLIP did not choose it."
    return out


def _table(report: Report, composition: Composition) -> str:
    reranked = [n for n in RERANKED_COUNTS if any(n in cell.reranked for cell in composition.cells)]
    any_of = sorted({n for cell in composition.cells for n in cell.any_of})
    columns = ["first", *(f"reranked_{n}" for n in reranked), *(f"any_of_{n}" for n in any_of)]
    head = ["Captions", "Number", "First<br>candidate", *(f"CLIP’s<br>choice of {n}" for n in reranked)]
    head += [f"Any of {n}" for n in any_of]
    rows = []
    for cell in composition.cells:
        found = cell.figures()
        base = f"composition/{level_name(cell.level)}/{cell.split}"
        name = f"{escape(level_title(report, cell.level))}<br><small>{SPLIT_NAMES[cell.split]}</small>"
        shares = [share(f"{base}/{column}", found.get(column)) for column in columns]
        rows.append([name, str(cell.first.count), *shares])
    return table(head, rows, "Share of captions whose picture is right in every part; small: 95 % Wilson interval in %")


def _candidates_chart(composition: Composition, level: int) -> Chart:
    lines, counts = [], {1}
    for split in SPLITS:
        cell = composition.cell(level, split)
        if cell is None or cell.first.value is None:
            continue
        for words, shares in (("CLIP’s choice", cell.reranked), ("any right", cell.any_of)):
            points = [(1.0, cell.first.value)]
            points += [(float(n), found.value) for n, found in shares.items() if found.value is not None]
            lines.append(Line(f"{SPLIT_NAMES[split]}: {words}", tuple(points)))
            counts |= set(shares)
    ticks = tuple(float(n) for n in sorted(counts))
    return Chart(f"Level {level}", "candidates", tuple(lines), log_x=True, percent=True, x_ticks=ticks)


def _parts(report: Report, composition: Composition) -> str:
    rows = []
    for level in composition.levels:
        cells = {split: composition.cell(level, split) for split in SPLITS}
        names = dict.fromkeys(part.name for cell in cells.values() if cell for part in cell.parts)
        for name in names:
            row = [f"{escape(name)} <small>level {level}</small>"]
            for split, cell in cells.items():
                row += _part_shares(cell, name, f"composition/{level_name(level)}/{split}/parts/{name}")
            rows.append(row)
    largest = max(cell.chosen_of for cell in composition.cells)
    choice = f"CLIP’s choice of {largest}" if largest > 1 else "CLIP’s choice"
    head = ["Part", "Seen<br>first", f"Seen<br>{choice}", "Held out<br>first", f"Held out<br>{choice}"]
    return table(head, rows, "How often each part of a caption is right, whatever its other parts are", tight=True)


def _part_shares(cell: Cell | None, name: str, path: str) -> list[str]:
    part = next((part for part in cell.parts if part.name == name), None) if cell else None
    if cell is None or part is None:
        return [share("", None)] * 2
    chosen = part.chosen if cell.chosen_of > 1 else None
    return [
        share(f"{path}/first", part.first, in_figures=False),
        share(f"{path}/reranked_{cell.chosen_of}", chosen, in_figures=False),
    ]


def _guidance_rows(point: GuidancePoint, keys: list[tuple[int, Split]]) -> list[list[str]]:
    """A row for the first candidate and, where more than one was drawn, one for CLIP's choice."""
    cells = [point.composition.cell(level, split) for level, split in keys]
    bases = [f"guidance/{point.scale:g}/{level_name(level)}/{split}" for level, split in keys]
    pairs = list(zip(cells, bases, strict=True))
    rows = [[f"{point.scale:g}<br><small>first candidate</small>"]]
    rows[0] += [share(f"{base}/first", cell.first if cell else None) for cell, base in pairs]
    counts = sorted({cell.chosen_of for cell in cells if cell and cell.reranked})
    for n in counts:
        shares = [share(f"{base}/reranked_{n}", cell.reranked.get(n) if cell else None) for cell, base in pairs]
        rows.append([f"<small>CLIP’s choice of {n}</small>", *shares])
    return rows


def _guidance_chart(report: Report, split: Split, scales: tuple[Number, ...]) -> Chart:
    """A line per level; one chart per split, so that six levels still have a colour each."""
    points: dict[int, list[tuple[Number, Number]]] = {}
    for point in report.guidance:
        for cell in point.composition.cells:
            if cell.split == split and cell.first.value is not None:
                points.setdefault(cell.level, []).append((point.scale, cell.first.value))
    lines = tuple(Line(f"level {level}", tuple(points[level])) for level in sorted(points))
    return Chart(f"First candidate right, {SPLIT_NAMES[split]}", "guidance scale", lines, percent=True, x_ticks=scales)
