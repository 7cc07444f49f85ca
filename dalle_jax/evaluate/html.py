"""Small pieces of the report's page: escaped text, figures that carry their value and path, tables and pictures."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from dalle_jax.evaluate.charts import Number
from dalle_jax.evaluate.report_data import Candidate, Figure, Kind
from dalle_jax.evaluate.shares import Share
from dalle_jax.scenes.judge import Part

NOT_MEASURED = "not measured"


def written(value: Number | None, kind: Kind) -> str:
    """A value as the page shows it, with its unit."""
    if value is None or value != value:
        return NOT_MEASURED
    match kind:
        case "percent":
            return f"{100 * value:.1f} %"
        case "decibel":
            return f"{value:.1f} dB"
        case "nats":
            return f"{value:.3f} nats"
        case "seconds":
            return duration(value)
        case "count":
            return f"{value:,.0f}"
        case _:
            return f"{value:.4g}"


def duration(seconds: Number) -> str:
    """171 ms, 8.2 s, 13 min 51 s, 2 h 5 min."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def figure(path: str, value: Number | None, kind: Kind) -> str:
    """A number of the page; ``path`` is its keys in ``metrics.json`` parted by slashes, to compare the two by."""
    shown = escape(written(value, kind)).replace(" ", "&nbsp;")
    exact = "" if value is None or value != value else repr(float(value))
    return f'<data value="{exact}" data-path="{escape(path)}">{shown}</data>'


def share(path: str, measured: Share | None, in_figures: bool = True) -> str:
    """A share, a bar with its 95 % interval, and that interval ``in_figures``; a dash where it was not measured."""
    if measured is None or measured.value is None or measured.interval is None:
        return '<span class="none">–</span>'
    low, high = (100 * end for end in measured.interval)
    bar = (
        f'<span class="bar" aria-hidden="true"><i style="width:{100 * measured.value:.1f}%"></i>'
        f'<b style="left:{low:.1f}%;width:{max(high - low, 0.5):.1f}%"></b></span>'
    )
    digits = 1 if measured.count >= 500 else 0
    interval = f"<small>{low:.{digits}f}–{high:.{digits}f}</small>" if in_figures else ""
    return f"{figure(path, measured.value, 'percent')}{bar}{interval}"


def cards(figures: Sequence[tuple[str, Figure]]) -> str:
    """Headline figures; each with its path in ``metrics.json``."""
    items = [
        f'<div class="card"><span class="label">{escape(item.label)}</span>'
        f"<strong>{figure(path, item.value, item.kind)}</strong><small>{escape(item.note)}</small></div>"
        for path, item in figures
    ]
    return f'<div class="cards">{"".join(items)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, tight: bool = False) -> str:
    """A table of ready HTML cells, the first of each row a heading; scrolls by itself where it is too wide."""
    kind = ' class="tight"' if tight else ""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    return (
        f'<div class="box"><p>{escape(caption)}</p><div class="scroll"><table{kind} aria-label="{escape(caption)}">'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def picture(pixels: np.ndarray, alt: str) -> str:
    """An inline PNG of uint8 [H W 3]; small pictures are enlarged with their pixels kept sharp."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width, _ = pixels.shape
    sharp = ' class="sharp"' if width <= 64 else ""
    return f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}"{sharp} alt="{escape(alt)}">'


def verdict(right: bool | None) -> str:
    """Right or wrong in words, in colour and with a sign; nothing where nothing could judge."""
    if right is None:
        return ""
    return '<span class="verdict right">✓ right</span>' if right else '<span class="verdict wrong">✗ wrong</span>'


def marks(parts: Sequence[Part]) -> str:
    """A tick or cross per part of the caption; a wrong one says what was found instead."""
    items = []
    for part in parts:
        name, expected, found = (escape(str(text)) for text in (part.name, part.expected, part.found))
        if part.right:
            items.append(f'<li class="right"><b>✓</b> {name}: {expected}</li>')
        else:
            instead = "not found" if part.found in ("", "nothing") else f"found {found}"
            items.append(f'<li class="wrong"><b>✗</b> {name}: {expected} <em>({instead})</em></li>')
    return f'<ul class="marks">{"".join(items)}</ul>' if items else ""


def candidate(shown: Candidate, heading: str, place: str, caption: str) -> str:
    """A generated picture under its heading, with what the reader says of it."""
    judged = {True: ", judged right", False: ", judged wrong", None: ""}[shown.right]
    return (
        f'<div class="candidate"><span class="label"><b>{escape(heading)}</b>{escape(place)}</span>'
        f"{picture(shown.picture, f'{heading} for: {caption}{judged}')}{verdict(shown.right)}{marks(shown.parts)}</div>"
    )
