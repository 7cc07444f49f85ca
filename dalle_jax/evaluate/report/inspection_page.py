"""Findings of ``inspect`` on a data source, as an HTML page, JSON, text and a contact sheet."""

from typing import TypedDict

import numpy as np

from dalle_jax.data.examples.inspection import InspectionFindings
from dalle_jax.data.examples.record_report import RecordKind
from dalle_jax.evaluate.report.environment import render
from dalle_jax.evaluate.report.formats import shortened
from dalle_jax.images.grid import grid

COLUMNS = 10
MOST_LETTERS = 60
WORDS, SIZES, VALUES = 40, 12, 8
QUANTILES = ("least", "p5", "median", "p95", "most")


class ImageSize(TypedDict):
    """Number of images of one size in pixels."""

    width: int
    height: int
    count: int


class Duplicates(TypedDict):
    """Number of repeats, and the keys (earlier, later) of the first few pairs."""

    count: int
    examples: list[list[str]]


class MetadataField(TypedDict):
    """Number of images with a metadata field, number of its different values, and the most frequent of these."""

    count: int
    values: int
    most: dict[str, int]


class TruncatedCaptions(TypedDict):
    """Number of captions of more than ``text_length`` tokens, and the number of all captions."""

    text_length: int
    count: int
    of: int


class InspectionContent(TypedDict):
    """Content of ``inspect.json``. ``numbers`` maps quantities to their quantiles.

    ``same`` maps kinds of duplicates to their numbers and keys.
    """

    listed: int
    examined: int
    usable: int
    bad: dict[str, RecordKind]
    dropped: dict[str, RecordKind]
    formats: dict[str, int]
    sizes: list[ImageSize]
    numbers: dict[str, dict[str, float]]
    words: dict[str, int]
    metadata: dict[str, MetadataField]
    same: dict[str, Duplicates]
    truncated: TruncatedCaptions | None


def to_json(findings: InspectionFindings) -> InspectionContent:
    """Return all findings except the images."""
    report = findings.report.content()
    return {
        "listed": findings.listed,
        "examined": findings.examined,
        "usable": findings.usable,
        "bad": report["bad"],
        "dropped": report["dropped"],
        "formats": dict(findings.formats.most_common()),
        "sizes": [{"width": w, "height": h, "count": n} for (w, h), n in findings.sizes.most_common(SIZES)],
        "numbers": {name: dict(zip(QUANTILES, values, strict=True)) for name, values in findings.quantiles().items()},
        "words": dict(findings.words.most_common(WORDS)),
        "metadata": {
            name: {"count": counted.total(), "values": len(counted), "most": dict(counted.most_common(VALUES))}
            for name, counted in findings.metadata.items()
        },
        "same": {
            kind: {"count": repeats.count, "examples": [list(pair) for pair in repeats.examples]}
            for kind, repeats in findings.repeats.items()
        },
        "truncated": _truncated(findings),
    }


def _truncated(findings: InspectionFindings) -> TruncatedCaptions | None:
    """Return the counts of truncated captions, or None if no text tokenizer was given."""
    if findings.text_length is None:
        return None
    count = len(findings.numbers.get("tokens of a caption", ()))
    return TruncatedCaptions(text_length=findings.text_length, count=findings.truncated, of=count)


def format_text(content: InspectionContent) -> str:
    """Return the most important findings on a few lines."""
    lines = [f"{content['listed']} listed, {content['examined']} examined, {content['usable']} usable"]
    for part, kinds in (("bad", content["bad"]), ("dropped", content["dropped"])):
        for kind, one in kinds.items():
            names = ", ".join(record["key"] for record in one["records"][:3])
            lines.append(f"{part}: {one['count']} {kind} ({names})")
    lines.append("formats: " + (", ".join(f"{name} {count}" for name, count in content["formats"].items()) or "none"))
    for name, values in content["numbers"].items():
        lines.append(
            f"{name}: {' / '.join(f'{value:.4g}' for value in values.values())} (minimum/5 %/median/95 %/maximum)"
        )
    if (cut := content["truncated"]) is not None:
        share = f" ({cut['count'] / cut['of']:.2%})" if cut["of"] else ""
        lines.append(f"{cut['count']} of {cut['of']} captions{share} are truncated to {cut['text_length']} tokens")
    for kind, same in content["same"].items():
        first = f" ({' and '.join(same['examples'][0])})" if same["examples"] else ""
        lines.append(f"same {kind}: {same['count']}{first}")
    for name, known in content["metadata"].items():
        if known["values"] < known["count"]:  # fields such as a key or a digest differ in every record
            most = ", ".join(f"{shortened(value, MOST_LETTERS)} {count}" for value, count in known["most"].items())
            lines.append(f"metadata {name}: {known['values']} values in {known['count']} records, {most}")
    lines.append("words: " + ", ".join(f"{word} {count}" for word, count in list(content["words"].items())[:15]))
    return "\n".join(lines)


def contact_sheet(findings: InspectionFindings) -> np.ndarray | None:
    """Return the contact sheet with captions, or None if there are no cells.

    Frames of used images are green, those of dropped images red.
    """
    if not findings.sheet:
        return None
    captions = [
        (f"[{one.dropped}] " if one.dropped else "") + shortened(one.caption, MOST_LETTERS) for one in findings.sheet
    ]
    marks = [one.dropped is None for one in findings.sheet]
    return grid([one.pixels for one in findings.sheet], COLUMNS, captions, marks)


def inspection_page(title: str, content: InspectionContent, sheet: np.ndarray | None) -> str:
    """Return the HTML page, which loads no other files."""
    return render("inspection.html.j2", title=title, content=content, sheet=sheet)
