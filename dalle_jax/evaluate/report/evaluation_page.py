"""The page of ``evaluate``: a panel of figures, plots and images for each suite, in one HTML file without scripts."""

from collections.abc import Mapping
from dataclasses import dataclass

from dalle_jax import storage
from dalle_jax.evaluate.report.charts import Chart, Line
from dalle_jax.evaluate.report.environment import render
from dalle_jax.evaluate.report.formats import path_of
from dalle_jax.evaluate.report.run_report import Format
from dalle_jax.evaluate.report.write_report import write_metrics
from dalle_jax.evaluate.suites.panels import Panel, PanelFigure, Plot, SuiteFindings
from dalle_jax.storage import Place


@dataclass(frozen=True)
class FigureRow:
    """A row of a panel's table: ``path`` is the figure's place in ``evaluation.json``, and ``interval`` is shown."""

    label: str
    note: str
    path: str
    value: float | None
    unit: Format
    interval: str


@dataclass(frozen=True)
class PanelSection:
    """A panel with its table and charts, as the template shows them."""

    name: str
    panel: Panel
    rows: tuple[FigureRow, ...]
    charts: tuple[Chart, ...]


def evaluation_page(title: str, figures_file: str, panels: Mapping[str, Panel]) -> str:
    """Return the page. ``panels`` are named as their suites in the JSON file ``figures_file``."""
    sections = [
        PanelSection(
            name, panel, tuple(_row(name, one) for one in panel.figures), tuple(_chart(one) for one in panel.plots)
        )
        for name, panel in panels.items()
    ]
    return render("evaluation.html.j2", title=title, figures_file=figures_file, sections=sections)


def page_of(path: Place) -> Place:
    """Return the page that belongs to a JSON file: the same name with the ending .html."""
    return path.parent / f"{path.name.removesuffix('.json')}.html"


def write_evaluation(path: Place, title: str, found: Mapping[str, SuiteFindings]) -> None:
    """Write the JSON of all suites to ``path``, and the page beside it. Raise ``UserError`` if that fails."""
    write_metrics(path, {name: one.to_json() for name, one in found.items()})
    page = evaluation_page(title, path.name, {name: one.panel() for name, one in found.items()})
    storage.write_bytes(page_of(path), page.encode())


def _row(suite: str, figure: PanelFigure) -> FigureRow:
    return FigureRow(
        label=figure.label,
        note=figure.note,
        path=path_of(f"{suite}.{figure.key}"),
        value=figure.value,
        unit=figure.unit,
        interval="" if figure.interval is None else _interval(*figure.interval, percent=figure.unit == "percent"),
    )


def _interval(low: float, high: float, percent: bool) -> str:
    """Return the bounds of an interval, such as 44.0 to 57.2 %."""
    return f"{100 * low:.1f} to {100 * high:.1f} %" if percent else f"{low:.4g} to {high:.4g}"


def _chart(plot: Plot) -> Chart:
    lines = tuple(Line(one.name, one.points) for one in plot.lines)
    ticks = tuple(sorted({x for line in lines for x, _ in line.points}))
    return Chart(plot.title, plot.x_label, lines, percent=plot.percent, x_ticks=ticks if len(ticks) <= 8 else ())
