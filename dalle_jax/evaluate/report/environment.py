"""Jinja environment of the report's pages: escaped by default, and an error for any undefined name."""

import base64
import io
from functools import cache

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from dalle_jax.evaluate.report.charts import drawing
from dalle_jax.evaluate.report.formats import (
    duration,
    exact,
    format_value,
    interval,
    path_of,
    percent_width,
    shortened,
)


def render(template: str, **context: object) -> str:
    """Render a template of this package with the values of ``context``."""
    return _environment().get_template(template).render(**context)


def png_data_uri(pixels: np.ndarray) -> str:
    """Return an image, uint8 [H W 3], as the ``data:`` URI of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dalle_jax.evaluate.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": "{:,}".format,
        "drawing": drawing,
        "duration": duration,
        "exact": exact,
        "format_value": format_value,
        "interval": interval,
        "path_of": path_of,
        "percent_width": percent_width,
        "png_data_uri": png_data_uri,
        "shortened": shortened,
    }
    return environment
