"""The panel of an evaluation on scenes: accuracy by level and split, by atoms and by held-out combinations."""

from collections.abc import Sequence

from dalle_jax.evaluate.metrics.atoms import AtomTable
from dalle_jax.evaluate.metrics.composition import Cell, Composition, Split, level_name
from dalle_jax.evaluate.metrics.reconstruction import Reconstruction
from dalle_jax.evaluate.metrics.shares import Share
from dalle_jax.evaluate.suites.findings import Sample, SampleGroup
from dalle_jax.evaluate.suites.panels import Panel, PanelFigure, Plot, PlotLine, ShownImage, ShownImages

FIRST, CHOSEN = "first candidate", "CLIP's choice"
SPLIT_WORDS: dict[Split, str] = {
    "seen": "seen combinations",
    "held_out": "held-out combinations",
    "prompted": "held-out combinations in prompts",
    "unnamed": "held-out combinations in no prompt",
}


def scene_panel(
    composition: Composition,
    reconstruction: Reconstruction | None,
    first: AtomTable,
    chosen: AtomTable,
    samples: Sequence[SampleGroup],
) -> Panel:
    """Return the panel; ``first`` and ``chosen`` are the atoms of first candidates and of CLIP's choices."""
    figures = [figure for cell in composition.cells for figure in _cell_figures(cell)]
    for key, name, table in (("first", FIRST, first), ("chosen", CHOSEN, chosen)):
        figures += [
            PanelFigure.of_share(f"atoms.{key}.by_kind.{kind}.value", f"Atoms right: {kind}, {name}", share)
            for kind, share in table.kinds.items()
        ]
        for number, one in table.counts.items():
            path, label = f"atoms.{key}.by_number.{number}", f"of {number} atoms, {name}"
            figures.append(PanelFigure.of_share(f"{path}.captions.value", f"Captions right {label}", one.captions))
            figures.append(PanelFigure.of_share(f"{path}.atoms.value", f"Atoms right in captions {label}", one.atoms))
    if reconstruction is not None:
        note = f"over {reconstruction.count} images"
        figures.append(PanelFigure("reconstruction.psnr", "Reconstruction", reconstruction.psnr, "decibel", note=note))
    return Panel(
        "Captioned scenes",
        "The scene reader judges each generated image from its pixels. An atom is a claim that a caption makes in "
        "words, as in GenEval 2. A caption is right if all claims are, and nothing else is in the image.",
        tuple(figures),
        plots=(_by_number(first, chosen), _by_held_out_share(first, chosen)),
        images=tuple(ShownImages(group.title, _worst(group.samples)) for group in samples),
    )


def _cell_figures(cell: Cell) -> list[PanelFigure]:
    where = f"Level {cell.level}, {SPLIT_WORDS[cell.split]}"
    path = f"composition.{level_name(cell.level)}.{cell.split}"
    names = {"first": FIRST, f"reranked_{cell.chosen_of}": f"{CHOSEN} of {cell.chosen_of}"}
    shares = cell.figures()
    found = [
        PanelFigure.of_share(f"{path}.{key}", f"{where}, {names[key]}", shares[key]) for key in names if key in shares
    ]
    if cell.second is not None:
        second = (("first", FIRST, cell.second.first), ("chosen", f"{CHOSEN} of {cell.chosen_of}", cell.second.chosen))
        found += [
            PanelFigure.of_share(f"{path}.second_reader.{key}", f"{where}, {name}, second reader", share)
            for key, name, share in second
        ]
    return found


def _by_number(first: AtomTable, chosen: AtomTable) -> Plot:
    lines = [
        _line(f"{what}, {name}", {float(n): getattr(one, what) for n, one in table.counts.items()})
        for name, table in ((FIRST, first), (CHOSEN, chosen))
        for what in ("captions", "atoms")
    ]
    return Plot("right, by atoms of the caption", "atoms of the caption", tuple(lines), percent=True)


def _by_held_out_share(first: AtomTable, chosen: AtomTable) -> Plot:
    tables = ((FIRST, first), (CHOSEN, chosen))
    return Plot(
        "captions right, by held-out combinations",
        "share of the caption's combinations that were held out",
        tuple(_line(name, table.held_out) for name, table in tables),
        percent=True,
    )


def _line(name: str, shares: dict[float, Share]) -> PlotLine:
    return PlotLine(name, tuple((x, share.value) for x, share in shares.items() if share.value is not None))


def _worst(samples: Sequence[Sample]) -> tuple[ShownImage, ...]:
    """Return CLIP's choices, or the first candidates, with the most wrong parts first."""
    best = [(one.caption, one.chosen or one.first) for one in samples]
    wrong = [[part for part in candidate.parts if not part.right] for _, candidate in best]
    order = sorted(range(len(best)), key=lambda i: -len(wrong[i]))
    return tuple(
        ShownImage(
            best[i][1].image,
            best[i][0],
            "; ".join(f"{part.name}: {part.found or 'nothing'} for {part.expected}" for part in wrong[i]),
            best[i][1].right,
        )
        for i in order
    )
