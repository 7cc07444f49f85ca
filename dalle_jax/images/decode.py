"""Decoding of untrusted image files to upright, opaque 8-bit RGB, after a check of size limits."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, TiffImagePlugin

from dalle_jax.images.header import BadImage, Header, Limits, read_header

WHITE = (255, 255, 255)


def decode(
    content: bytes,
    limits: Limits | None = None,
    *,
    background: tuple[int, int, int] = WHITE,
    min_side: int | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Decode a JPEG, PNG, WebP, GIF, BMP or TIFF file; the format is found from its content.

    - EXIF orientation is applied. Only the first frame or page is decoded.
    - Transparent parts are blended over ``background`` in sRGB values, as browsers do.
    - 16-bit grey is rounded to 8 bits; 16-bit colours keep their upper 8, which is all that Pillow gives.
    - CMYK becomes RGB as (1 - C)(1 - K), without a colour profile. CMYK JPEGs are taken as inverted, as Adobe writes
      them.

    ``min_side`` lets a JPEG be decoded at a half, a quarter or an eighth of its size, several times faster. Both sides
    stay at least that long. The smaller image is made by averaging blocks of pixels, not by a Lanczos filter. If it
    still has twice the final side, the final images look alike.

    Raises ``BadImage`` for a file that is none of these, is broken or exceeds ``limits``. It is thread-safe, since it
    changes no setting of Pillow. It prints nothing, except that libtiff writes a line to standard error for broken
    compressed data.
    """
    image = decode_image(read_header(content, limits or Limits()), background=background, min_side=min_side)
    return np.ascontiguousarray(image)


def decode_image(
    header: Header, *, background: tuple[int, int, int] = WHITE, min_side: int | None = None
) -> Image.Image:
    """Decode a file to a Pillow image in RGB, as ``decode`` does.

    ``read_header`` has read its header and checked its limits.
    """
    with _as_bad_image(header):
        image = _open(header)
        if min_side is not None:
            image.draft(None, (min_side, min_side))  # only JPEG is affected
        raw = _raw_mode(image)
        image.load()
        return _turn_upright(_to_rgb(image, raw, background), header.orientation)


def decode_own(header: Header) -> Image.Image:
    """Decode a file to an upright Pillow image in its own mode, to write it again without loss.

    Raises ``BadImage`` as ``decode`` does, and for colours of 16 bits, of which Pillow gives the upper 8 alone.
    """
    with _as_bad_image(header):
        image = _open(header)
        raw = _raw_mode(image)
        deep = image.mode.startswith("I;16")
        if (";16" in raw and not deep) or (deep and (raw == "I;12" or _white_is_zero(image))):
            raise BadImage("format", f"{header.format} file with pixels of the kind {raw}, expected 8 bits")
        image.load()
        _scale_transparency(image, raw)
        return _turn_upright(image, header.orientation)


def _open(header: Header) -> ImageFile.ImageFile:
    image = Image.open(io.BytesIO(header.content), formats=(header.format,))
    if image.size != (header.width, header.height):
        sizes = f"{header.width}x{header.height} in the header, {image.width}x{image.height} by Pillow"
        raise BadImage("broken", f"expected one size in pixels, got {sizes}")
    return image


@contextlib.contextmanager
def _as_bad_image(header: Header) -> Iterator[None]:
    """Raise ``BadImage`` for the errors of Pillow, which raises a dozen kinds on broken files."""
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        truncated = "truncated" in message.lower() or "not enough" in message
        raise BadImage("truncated" if truncated else "broken", f"{header.format} file: {message}") from error


def to_opaque_rgb(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """Return a Pillow image as RGB, transparent parts blended over ``background``. EXIF orientation is not applied."""
    return _to_rgb(image.copy(), "", background)


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Return Pillow's name for the pixel layout in the file, or "" if it is unknown.

    Pillow forgets the name once the pixels are loaded.
    """
    arguments = image.tile[0][3] if image.tile else ""
    first = arguments if isinstance(arguments, str | None) else arguments[0]
    return first if isinstance(first, str) else ""


def _to_rgb(image: Image.Image, raw: str, background: tuple[int, int, int]) -> Image.Image:
    """Convert an image to opaque 8-bit RGB. Raise ``BadImage`` if the white level of its mode is unknown."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(_deep_grey_to_rgb(image, raw, background))
    if image.mode in ("I", "F", "LAB"):
        source = "an image" if image.format is None else f"a {image.format} file"
        raise BadImage(
            "format",
            f"expected pixels with a known white level, got {source} with pixels of mode {raw or image.mode}",
        )
    _scale_transparency(image, raw)
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    under = Image.new("RGB", layer.size, background)
    under.paste(layer, mask=layer)
    return under


def _scale_transparency(image: Image.Image, raw: str) -> None:
    """Scale a transparent value, which is given in the bit depth of the file, to 8 bits, in place."""
    transparent = image.info.get("transparency")
    if image.mode == "L" and isinstance(transparent, int):
        image.info["transparency"] = transparent * {"L;2": 85, "L;4": 17}.get(raw, 1)
    if image.mode == "RGB" and isinstance(transparent, tuple) and ";16" in raw:
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


def _white_is_zero(image: Image.Image) -> bool:
    """Return True for a TIFF of inverted grey, which Pillow corrects in 8 bits only."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(262) == 0


def _deep_grey_to_rgb(image: Image.Image, raw: str, background: tuple[int, int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Return a grey image of 12 or 16 bits as 8-bit RGB, rounded to nearest: a 16-bit value of 32,768 becomes 128."""
    values = np.asarray(image).astype(np.uint32)
    white = 4095 if raw == "I;12" else 65_535
    grey = ((values * 255 + white // 2) // white).astype(np.uint8)
    if _white_is_zero(image):
        grey = 255 - grey
    pixels = np.repeat(grey[:, :, None], 3, axis=2)
    transparent = image.info.get("transparency")
    if transparent is None:
        return pixels
    return np.where((values == transparent)[:, :, None], np.array(background, np.uint8), pixels)


def _turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Rotate or mirror an image so that it is upright, given its stored orientation (EXIF 2.32, table 6)."""
    return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image


_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
