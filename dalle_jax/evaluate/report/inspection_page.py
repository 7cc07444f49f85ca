"""What is in a source, as one HTML page, as JSON, as words, and its contact sheet."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from dalle_jax.data.inspection import Findings
from dalle_jax.evaluate.report.formats import picture, table
from dalle_jax.evaluate.report.style import STYLE
from dalle_jax.images.grid import grid

COLUMNS = 10
MOST_LETTERS = 60
WORDS, SIZES = 40, 12


def to_json(findings: Findings) -> dict[str, Any]:
    """Everything but the pixels."""
    quantiles = {
        name: dict(zip(("least", "p5", "median", "p95", "most"), values, strict=True))
        for name, values in findings.quantiles().items()
    }
    report = findings.report.content()
    return {
        "listed": findings.listed,
        "examined": findings.examined,
        "usable": findings.usable,
        "bad": report["bad"],
        "dropped": report["dropped"],
        "formats": dict(findings.formats.most_common()),
        "sizes": [{"width": w, "height": h, "count": n} for (w, h), n in findings.sizes.most_common(SIZES)],
        "numbers": quantiles,
        "words": dict(findings.words.most_common(WORDS)),
        "same": {
            kind: {"count": twins.count, "examples": [list(pair) for pair in twins.examples]}
            for kind, twins in findings.twins.items()
        },
    }


def words(content: dict[str, Any]) -> str:
    """The most important of it on a few lines."""
    lines = [f"{content['listed']} listed, {content['examined']} examined, {content['usable']} usable"]
    for part in ("bad", "dropped"):
        for kind, one in content[part].items():
            names = ", ".join(record["key"] for record in one["records"][:3])
            lines.append(f"{part}: {one['count']} {kind} ({names})")
    lines.append("formats: " + (", ".join(f"{name} {count}" for name, count in content["formats"].items()) or "none"))
    for name, values in content["numbers"].items():
        lines.append(f"{name}: {' / '.join(f'{value:.4g}' for value in values.values())} (least/5 %/median/95 %/most)")
    for kind, same in content["same"].items():
        first = f" ({' and '.join(same['examples'][0])})" if same["examples"] else ""
        lines.append(f"same {kind}: {same['count']}{first}")
    lines.append("words: " + ", ".join(f"{word} {count}" for word, count in list(content["words"].items())[:15]))
    return "\n".join(lines)


def contact_sheet(findings: Findings) -> np.ndarray | None:
    """The cells with their captions: a green frame for a picture that is used, a red one for one left out."""
    if not findings.sheet:
        return None
    captions = [
        (f"[{one.dropped}] " if one.dropped else "") + _short(one.caption, MOST_LETTERS) for one in findings.sheet
    ]
    marks = [one.dropped is None for one in findings.sheet]
    return grid([one.pixels for one in findings.sheet], COLUMNS, captions, marks)


def page(title: str, content: dict[str, Any], sheet: np.ndarray | None) -> str:
    """The whole page; nothing is fetched."""
    parts = [
        f"<p class='lead'>{content['listed']:,} listed, {content['examined']:,} examined, "
        f"{content['usable']:,} usable</p>",
    ]
    if sheet is not None:
        legend = "Green: used; the orange square is cut out of it in the first epoch. Red: left out, and by what."
        parts.append(f"<p>{legend}</p>{picture(sheet, 'contact sheet')}")
    parts += [_kinds("Bad records", content["bad"]), _kinds("Left out by filters", content["dropped"])]
    parts.append(_numbers(content["numbers"]))
    sizes = [[f"{one['width']} × {one['height']}", f"{one['count']:,}"] for one in content["sizes"]]
    parts.append(_table(["Size", "Pictures"], sizes, "The most frequent sizes"))
    formats = [[escape(name), f"{count:,}"] for name, count in content["formats"].items()]
    parts.append(_table(["Format", "Pictures"], formats, "Formats"))
    same = [
        [kind, f"{one['count']:,}", "<br>".join(escape(" = ".join(pair)) for pair in one["examples"][:5])]
        for kind, one in content["same"].items()
    ]
    parts.append(_table(["Same", "Repeats", "Such as"], same, "Duplicates"))
    counted = [[escape(word), f"{count:,}"] for word, count in content["words"].items()]
    parts.append(_table(["Word", "Times"], counted, "The most frequent words of captions"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><header><h1>{escape(title)}</h1></header>"
        f"<main>{''.join(parts)}</main><footer>Made by dalle_jax. inspect.json beside this page holds the same "
        "figures.</footer></body></html>\n"
    )


def _numbers(numbers: dict[str, Any]) -> str:
    rows = [[escape(name), *(f"{value:.4g}" for value in values.values())] for name, values in numbers.items()]
    return _table(["", "Least", "5 %", "Median", "95 %", "Most"], rows, "Of each picture or caption")


def _kinds(title: str, kinds: dict[str, Any]) -> str:
    rows = []
    for kind, one in kinds.items():
        examples = "<br>".join(
            escape(_short(f"{record['key']}: {record['reason']}" if "reason" in record else record["key"], 160))
            for record in one["records"][:5]
        )
        rows.append([escape(kind), f"{one['count']:,}", examples])
    return _table(["Kind", "Records", "Such as"], rows, title)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    return table(head, rows, caption) if rows else f"<p>{escape(caption)}: none.</p>"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
