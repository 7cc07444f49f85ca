"""Picture files of strangers to pixels: limits first, then one page, upright, 8 bits, opaque, RGB."""

import io
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dalle_jax.images.header import BadPicture, Header, Limits, read_header

WHITE = (255, 255, 255)


def decode(
    content: bytes,
    limits: Limits | None = None,
    *,
    background: tuple[int, int, int] = WHITE,
    at_least: int | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in a JPEG, PNG, WebP, GIF, BMP or TIFF file, told from each other by content.

    It is turned as its EXIF says. Of several frames or pages it is the first. Transparent parts are laid over
    ``background``, both in sRGB values as they stand (what browsers do). 16-bit grey is rounded to 8 bits; of 16-bit
    colours Pillow gives the upper 8. CMYK becomes RGB as (1 - C)(1 - K) with no colour profile, JPEGs of it being
    inverted as Adobe writes them (Pillow and browsers take them so).

    ``at_least``: a JPEG whose sides allow it is decoded at a half, a quarter or an eighth, both sides being no shorter
    than that. It is several times faster; the pixels are then averages of blocks, not those of the whole picture shrunk
    by ``resize``, and look alike from two pixels for each pixel wanted.

    Raises ``BadPicture`` for everything else. Changes nothing of Pillow's settings, and many threads may call it at
    once. It prints nothing, but libtiff writes a line of its own to standard error when compressed data are broken.
    """
    return decode_read(read_header(content, limits or Limits()), background=background, at_least=at_least)


def decode_read(
    header: Header, *, background: tuple[int, int, int] = WHITE, at_least: int | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """``decode`` for a caller that has read the header, and with it checked the limits, for reasons of its own."""
    return np.ascontiguousarray(decode_image(header, background=background, at_least=at_least))


def decode_image(
    header: Header, *, background: tuple[int, int, int] = WHITE, at_least: int | None = None
) -> Image.Image:
    """``decode_read`` as an image of Pillow's, RGB, for a caller that has Pillow go on with it."""
    try:
        image = Image.open(io.BytesIO(header.content), formats=(header.format,))
        if image.size != (header.width, header.height):
            raise BadPicture("broken", f"{header.width}x{header.height} and {image.size} pixels in one header")
        if at_least is not None:
            image.draft(None, (at_least, at_least))  # does nothing to other formats than JPEG
        raw = _raw_mode(image)
        image.load()
        return _turned(_to_rgb(image, raw, background), header.orientation)
    except (BadPicture, MemoryError):
        raise
    except Exception as error:  # Pillow raises a dozen kinds of error on broken files
        said = " ".join(str(error).split()) or type(error).__name__
        short = "truncated" in said.lower() or "not enough" in said
        raise BadPicture("truncated" if short else "broken", f"{header.format} file: {said}") from error


def opaque(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """An image of Pillow's as RGB, transparent parts over ``background``; it is left as it was, and is not turned."""
    return _to_rgb(image.copy(), "", background)


def _raw_mode(image: Any) -> str:
    """How the pixels lie in the file, in Pillow's words; known only until they are loaded, and not of every format."""
    arguments = image.tile[0][3] if image.tile else ""
    first = arguments if isinstance(arguments, str) else arguments[0]
    return first if isinstance(first, str) else ""


def _to_rgb(image: Image.Image, raw: str, background: tuple[int, int, int]) -> Image.Image:
    """8 bits, opaque, RGB, of any mode whose white is known."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(_from_deep_grey(image, raw, background))
    if image.mode in ("I", "F", "LAB"):
        raise BadPicture("format", f"{image.format} file with pixels of the kind {raw or image.mode}")
    mark = image.info.get("transparency")
    if image.mode == "L" and isinstance(mark, int):
        image.info["transparency"] = mark * {"L;2": 85, "L;4": 17}.get(raw, 1)  # the file has it in its own depth
    if image.mode == "RGB" and isinstance(mark, tuple) and ";16" in raw:
        image.info["transparency"] = tuple(value >> 8 for value in mark)
    if "A" not in image.getbands() and mark is None:
        return image.convert("RGB")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    under = Image.new("RGB", layer.size, background)
    under.paste(layer, mask=layer)
    return under


def _from_deep_grey(image: Any, raw: str, background: tuple[int, int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """12 or 16 bits, rounded to 8: 32,768 of 65,535 is 128."""
    values = np.asarray(image).astype(np.uint32)
    white = 4095 if raw == "I;12" else 65_535
    grey = ((values * 255 + white // 2) // white).astype(np.uint8)
    if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # there 0 is white, which Pillow obeys in 8 bits only
        grey = 255 - grey
    pixels = np.repeat(grey[:, :, None], 3, axis=2)
    mark = image.info.get("transparency")
    return pixels if mark is None else np.where((values == mark)[:, :, None], np.array(background, np.uint8), pixels)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """Upright from as stored (EXIF 2.32, table 6)."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
