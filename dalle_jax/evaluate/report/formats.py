"""Formats of the numbers on a page."""

from dalle_jax.evaluate.metrics.shares import Share
from dalle_jax.evaluate.report.charts import Number
from dalle_jax.evaluate.report.run_report import Format

NOT_MEASURED = "not measured"


def format_value(value: Number | None, kind: Format) -> str:
    """Return a value as the page shows it, with its unit."""
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
        case "number":
            return f"{value:.4g}"


def duration(seconds: Number) -> str:
    """Return a duration such as 171 ms, 8.2 s, 13 min 51 s or 2 h 5 min."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def exact(value: Number | None) -> str:
    """Return every digit of a value; the empty string if it was not measured."""
    return "" if value is None or value != value else repr(float(value))


def interval(share: Share) -> str:
    """Return the 95 % interval of a share in percent, such as 44–100. From 500 outcomes on it has a decimal."""
    assert share.interval is not None
    low, high = share.interval
    digits = 1 if share.count >= 500 else 0
    return f"{100 * low:.{digits}f}–{100 * high:.{digits}f}"


def percent_width(value: float, least: float = 0.0) -> str:
    """Return a CSS length for a share in [0, 1]: at least ``least`` percent."""
    return f"{max(100 * value, least):.1f}%"


def path_of(key: str) -> str:
    """Convert a dotted key of ``metrics.json`` to a path with slashes, as the page shows it."""
    return key.replace(".", "/")


def shortened(text: str, most: int) -> str:
    """Return at most ``most`` letters of a text, with an ellipsis if it is cut."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
