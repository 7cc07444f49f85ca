"""The model of a request: a loaded one by its name, or under OpenAI's names the first that can do it."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from dalle_jax.serve.engine.served_model import ServedModel
from dalle_jax.serve.http.api_errors import ApiError

Verb: TypeAlias = Literal["generate", "inpaint", "mix", "vary"]

ALIASES = (
    "dall-e-2", "dall-e-3", "gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5", "gpt-image-2",
    "gpt-image-2-2026-04-21", "gpt-image-2.5-sunburst", "gpt-image-2.5-sunburst-2026-09-08", "gpt-image-2.5-flare",
    "gpt-image-2.5-flare-2026-09-08", "gpt-image-2.6-sunburst", "gpt-image-2.6-flare", "chatgpt-image-latest",
)  # fmt: skip
"""OpenAI's names, all of which stand for the loaded models."""
BY_URL = (None, "dall-e-2", "dall-e-3")
"""The names whose images are returned by URL unless the request says otherwise."""


def choose_model(models: Mapping[str, ServedModel], name: str | None, verb: Verb) -> ServedModel:
    """Return the model of that name, else the first that can do ``verb``."""
    if name is not None and name in models:
        return models[name]
    if name is not None and name not in ALIASES:
        raise unknown_model(name)
    able = [one for one in models.values() if getattr(one.abilities, verb)]
    if not able:
        what = {"generate": "draws prompts", "inpaint": "fills masked pixels", "vary": "varies images"}
        missing = what.get(verb, "changes whole images by a prompt; a mask may help")
        raise ApiError(400, f"model: no loaded model {missing}", param="model", code="unsupported_value")
    return able[0]


def unknown_model(name: str) -> ApiError:
    """Return the 404 of a model that is not loaded."""
    message = f"The model '{name[:60]}' does not exist; GET /v1/models lists those that are loaded"
    return ApiError(404, message, param="model", code="model_not_found")
