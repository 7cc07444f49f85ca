"""Bodies of the Images API as the package ``openai`` 3.57 sends them, with this server's own fields after them.

A field that no model here can honour is still known, so that ``refusals.py`` can name it in an error.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

MOST_CHARACTERS = 32_000
"""Longest prompt."""
MOST_CANDIDATES = 64
"""Largest number of images that are drawn for one request."""

Text: TypeAlias = Annotated[str, Field(max_length=MOST_CHARACTERS)]
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=10)]
Seed: TypeAlias = Annotated[int, Field(ge=0, lt=2**32)]
Quality: TypeAlias = Literal["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"]
Format: TypeAlias = Literal["png", "webp", "jpeg", "gif", "svg"]


class SvgReasoning(BaseModel):
    """Effort of the author of an SVG file; no model here draws one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    effort: str | None = None


class SvgAuthor(BaseModel):
    """Author of an SVG file; no model here draws one."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str | None = None
    reasoning: SvgReasoning | None = None


class ImagesBody(BaseModel):
    """Fields of all three routes. The last three are this server's."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    model: Name | None = Field(None, description="A loaded model, or one of OpenAI's names; the first model if absent")
    n: Count | None = Field(None, description="Number of images, 1 by default")
    response_format: Literal["url", "b64_json"] | None = Field(
        None, description="url by default for dall-e-2, dall-e-3 and no model, else b64_json"
    )
    size: Annotated[str, Field(pattern=r"^(auto|[1-9]\d{0,4}x[1-9]\d{0,4})$")] | None = Field(
        None, description="WIDTHxHEIGHT, to which the model's image is resized and cut; auto is the model's own"
    )
    user: Annotated[str, Field(max_length=1024)] | None = Field(None, description="Echoed as safety_identifier")
    seed: Seed | None = Field(None, description="Seed of the noise; drawn at random if absent, and always returned")
    candidates: Annotated[int, Field(ge=1, le=MOST_CANDIDATES)] | None = Field(
        None, description="Images to draw, of which CLIP keeps the n best"
    )
    guidance: Annotated[float, Field(ge=0, le=1000)] | None = Field(
        None, description="Scale of classifier-free guidance; 1 is off"
    )


class DrawingBody(ImagesBody):
    """Fields of generations and edits. The last six are this server's."""

    prompt: Text
    background: Literal["transparent", "opaque", "auto"] | None = None
    complexity: Literal["low", "medium", "high"] | None = Field(None, description="Refused: no model here plans")
    frame_count: Annotated[int, Field(ge=2, le=16)] | None = Field(None, description="Frames of a GIF, 9 by default")
    frame_duration_ms: Annotated[int, Field(ge=1, le=655_350)] | None = Field(
        None, description="Delay of a GIF's frames, 200 by default, rounded to 10 ms"
    )
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="Quality of JPEG and WebP files, 100 by default"
    )
    output_format: Format | None = Field(None, description="png by default; a gif shows how the image was drawn")
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = Field(
        None, description="Partial images of a stream, of each image"
    )
    quality: Quality | None = Field(None, description="medium, high, xhigh and max draw 2, 4, 8 and 16 candidates")
    safety_identifier: Annotated[str, Field(max_length=1024)] | None = None
    stream: bool | None = None
    svg: SvgAuthor | None = Field(None, description="Refused: no model here draws SVG")
    temperature: Annotated[float, Field(ge=0, le=1000)] | None = Field(None, description="0 is greedy")
    top_k: Annotated[int, Field(ge=0, le=2**20)] | None = Field(None, description="0 is off")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="1 is off")
    guidance_end: Annotated[float, Field(ge=0, le=1000)] | None = Field(
        None, description="Scale at the last code, which guidance reaches linearly"
    )
    negative_prompt: Text | None = Field(None, description="A text to move away from, by guidance")
    steps: Annotated[int, Field(ge=1, le=1000)] | None = Field(None, description="Steps of a diffusion decoder")


class GenerationBody(DrawingBody):
    """JSON of ``POST /v1/images/generations``."""

    moderation: Literal["low", "auto"] | None = None
    style: Literal["vivid", "natural"] | None = Field(None, description="Refused: no model here has styles")


class EditBody(DrawingBody):
    """Text fields of ``POST /v1/images/edits``; image, mask and markup are files. ``strength`` is this server's."""

    input_fidelity: Literal["high", "low"] | None = None
    strength: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Without a mask: how far the image's vector turns toward the prompt, 0 to 1"
    )


class VariationBody(ImagesBody):
    """Text fields of ``POST /v1/images/variations``; image is a file. ``prompt`` and ``strength`` are this server's."""

    prompt: Text | None = Field(None, description="A description of the image, which lets go of what it does not name")
    strength: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="How far the image's vector turns toward the prompt, 0 to 1"
    )


FILES: dict[type[ImagesBody], dict[str, int]] = {
    GenerationBody: {},
    EditBody: {"image": 16, "mask": 1, "markup": 1},
    VariationBody: {"image": 1},
}
"""The files of each body, and the largest number of each."""
