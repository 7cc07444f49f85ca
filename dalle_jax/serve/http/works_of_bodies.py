"""Bodies of requests to works of the engine; a field that the model cannot honour is a 400 that names it."""

import secrets
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from dalle_jax.config.errors import UserError
from dalle_jax.pipelines.request import RequestKeywords, RequestOptions
from dalle_jax.serve.engine.served_model import ServedModel
from dalle_jax.serve.engine.works import Edit, Generate, Vary, Work
from dalle_jax.serve.http.api_errors import ApiError, of_user_error, refused
from dalle_jax.serve.http.image_bodies import (
    MOST_CANDIDATES,
    DrawingBody,
    EditBody,
    GenerationBody,
    ImagesBody,
    VariationBody,
)
from dalle_jax.serve.http.model_choice import BY_URL, choose_model
from dalle_jax.serve.http.request_bodies import Form
from dalle_jax.serve.http.uploads import read_mask, read_upload
from dalle_jax.serve.results.encoded_images import LARGEST_PIXELS, LARGEST_SIDE, FileFormat, FileOptions

CANDIDATES_OF_QUALITY = {"low": 1, "standard": 1, "auto": 1, "medium": 2, "high": 4, "hd": 4, "xhigh": 8, "max": 16}
"""Candidates that are drawn for each image, of which CLIP keeps the best."""
GIF_FRAMES = 9
OWN_OPTIONS = ("temperature", "top_k", "top_p", "guidance", "guidance_end")


class Order(NamedTuple):
    """A request as it is understood: the model, its work, and the form of the answer."""

    model: ServedModel
    work: Work
    file: FileOptions
    by_url: bool
    streamed: bool
    quality: str
    user: str | None


def generation_order(models: Mapping[str, ServedModel], body: GenerationBody, filtered: bool) -> Order:
    """Return the order of ``POST /v1/images/generations``. ``filtered`` says if a safety filter is on."""
    model = choose_model(models, body.model, "generate")
    if body.style is not None:
        raise refused("style", "expected none, since no model here has styles; describe the style in the prompt")
    if body.moderation == "low" and filtered:
        raise refused("moderation", "expected auto, since this server's filter has one level, got low")
    options, shown = _options(model, body), _shown(model, body)
    work = Generate(
        prompt=body.prompt, options=options, negative_prompt=body.negative_prompt, steps=body.steps, shown=shown,
        shows_all=body.output_format == "gif",
    )  # fmt: skip
    return _order(model, work, body, _file(body, body))


def edit_order(models: Mapping[str, ServedModel], body: EditBody, form: Form) -> Order:
    """Return the order of ``POST /v1/images/edits``; decodes the images."""
    if "markup" in form.files:
        raise refused("markup", "expected none, since no model here reads marks; send a mask")
    if not form.files.get("image"):
        raise ApiError(400, "Missing required parameter: 'image'.", param="image", code="missing_required_parameter")
    images = tuple(read_upload(one, "image") for one in form.files["image"])
    masks = form.files.get("mask")
    transparent = images[0].transparent() if len(images) == 1 else None
    hidden = transparent if transparent is not None and transparent.any() else None
    if masks:
        hidden = read_mask(masks[0], images[0])
    model = choose_model(models, body.model, "mix" if hidden is None else "inpaint")
    if body.input_fidelity == "high" and hidden is None:
        raise refused("input_fidelity", "expected low without a mask; pixels outside of a mask are kept exactly")
    if body.strength is not None and hidden is not None:
        raise refused("strength", "expected none with a mask")
    if body.negative_prompt is not None:
        raise refused("negative_prompt", "expected none of an edit")
    options, shown = _options(model, body), _shown(model, body)
    work = Edit(
        images=images, hidden=hidden, prompt=body.prompt, options=options, steps=body.steps, strength=body.strength,
        shown=shown, shows_all=body.output_format == "gif",
    )  # fmt: skip
    return _order(model, work, body, _file(body, body))


def variation_order(models: Mapping[str, ServedModel], body: VariationBody, form: Form) -> Order:
    """Return the order of ``POST /v1/images/variations``; decodes the image."""
    model = choose_model(models, body.model, "vary")
    if not form.files.get("image"):
        raise ApiError(400, "Missing required parameter: 'image'.", param="image", code="missing_required_parameter")
    image = read_upload(form.files["image"][0], "image")
    work = Vary(image=image, options=_options(model, body), prompt=body.prompt, strength=body.strength)
    return _order(model, work, body, _file(body, None))


def _order(model: ServedModel, work: Work, body: ImagesBody, file: FileOptions) -> Order:
    try:
        model.check(work)
    except UserError as error:
        raise of_user_error(error) from error
    drawing = body if isinstance(body, DrawingBody) else None
    streamed = bool(drawing and drawing.stream)
    if streamed and body.response_format == "url":
        raise refused("response_format", "expected b64_json of a stream, got url")
    by_url = body.response_format == "url" or (body.response_format is None and body.model in BY_URL)
    quality = (drawing and drawing.quality) or "auto"
    user = (drawing and drawing.safety_identifier) or body.user or None
    return Order(model, work, file, by_url and not streamed, streamed, quality, user)


def _options(model: ServedModel, body: ImagesBody) -> RequestOptions:
    """Return the sampling options of a body; a seed is drawn if none is given."""
    count = body.n or 1
    quality = body.quality if isinstance(body, DrawingBody) else None
    candidates = body.candidates or count * CANDIDATES_OF_QUALITY[quality or "auto"]
    field = "quality" if body.candidates is None and quality else "candidates"
    if not count <= candidates <= MOST_CANDIDATES:
        raise refused(field, f"expected between n ({count}) and {MOST_CANDIDATES} candidates, got {candidates}")
    if candidates > count and not model.abilities.ranks:
        raise refused(field, f"expected as many candidates as images, since {model.name} has no CLIP to choose by")
    for name in (*OWN_OPTIONS, "negative_prompt"):
        if getattr(body, name, None) is not None and name not in model.abilities.options:
            raise refused(name, f"expected none, since the model {model.name} has no {name}")
    given: RequestKeywords = {"candidates": candidates, "keep": count}
    given["seed"] = secrets.randbelow(2**32) if body.seed is None else body.seed
    if body.guidance is not None:
        given["guidance"] = body.guidance
    if isinstance(body, DrawingBody):
        if body.temperature is not None:
            given["temperature"] = body.temperature
        if body.top_k is not None:
            given["top_k"] = body.top_k
        if body.top_p is not None:
            given["top_p"] = body.top_p
        if body.guidance_end is not None:
            given["guidance_end"] = body.guidance_end
    try:
        return model.options(given)
    except UserError as error:
        raise of_user_error(error) from error


def _shown(model: ServedModel, body: DrawingBody) -> tuple[float, ...]:
    """Return the shares of the progress at which partial images are shown, of a stream or as frames of a GIF."""
    if body.partial_images and not body.stream:
        raise refused("partial_images", "expected none without stream")
    field = "partial_images" if body.partial_images else "output_format" if body.output_format == "gif" else None
    if field is None:
        return ()
    if not model.abilities.partials:
        raise refused(field, f"expected none, since the model {model.name} does not show images while it draws")
    if body.output_format == "gif":
        frames = body.frame_count or GIF_FRAMES
        return tuple(number / frames for number in range(1, frames))
    count = body.partial_images or 0
    return tuple((2 * number + 1) / (2 * count + 2) for number in range(count))


def _file(body: ImagesBody, drawing: DrawingBody | None) -> FileOptions:
    """Return the form of the files. Raise the 400 of a field that no file here can have."""
    size = _size(body.size)
    if drawing is None:
        return FileOptions(size=size)
    for field, message in _wrong_forms(drawing):
        raise refused(field, message)
    given, compression, duration = drawing.output_format, drawing.output_compression, drawing.frame_duration_ms
    form: FileFormat = "png" if given is None or given == "svg" else given
    return FileOptions(form, 100 if compression is None else compression, size, 200 if duration is None else duration)


def _wrong_forms(body: DrawingBody) -> Iterator[tuple[str, str]]:
    """Yield the fields that cannot be honoured, and why."""
    form = body.output_format
    if body.svg is not None:
        yield "svg", "expected none, since no model here draws SVG"
    if form == "svg":
        yield "output_format", "expected png, jpeg, webp or gif, got svg"
    if body.background == "transparent":
        yield "background", "expected opaque or auto, since images here have no transparency"
    if body.complexity is not None:
        yield "complexity", "expected none, since no model here plans an image"
    if body.output_compression is not None and form not in ("jpeg", "webp"):
        yield "output_compression", f"expected none for {form or 'png'}; jpeg and webp have it"
    for field in ("frame_count", "frame_duration_ms"):
        if getattr(body, field) is not None and form != "gif":
            yield field, f"expected none for {form or 'png'}; gif has it"
    if form == "gif" and body.stream:
        yield "stream", "expected none for a gif"


def _size(text: str | None) -> tuple[int, int] | None:
    if text in (None, "auto"):
        return None
    width, height = map(int, text.split("x"))
    if max(width, height) > LARGEST_SIDE or width * height > LARGEST_PIXELS:
        raise refused(
            "size", f"expected at most {LARGEST_SIDE} a side and {LARGEST_PIXELS:,} pixels, got {text}", "invalid_value"
        )
    if not 1 / 3 <= width / height <= 3:
        raise refused("size", f"expected an aspect ratio between 1:3 and 3:1, got {text}", "invalid_value")
    return width, height
