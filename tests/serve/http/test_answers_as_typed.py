"""Answers and events have every field of the package openai's types, with values that those types allow."""

import openai
import pytest
from openai.types import (
    Image,
    ImageEditCompletedEvent,
    ImageGenCompletedEvent,
    ImageGenPartialImageEvent,
    ImagesResponse,
    Model,
)
from pydantic import BaseModel
from running_server import running
from solid_model import SolidModel

from tests.serve.http.test_image_routes import HOLE, SQUARE

ABSENT = {
    Image: {"revised_prompt"},  # no prompt is revised
    ImagesResponse: {"svg_usage"},  # of files that no model here draws
    Model: {"shutdown_date"},
}
"""Optional fields that no answer here has."""


@pytest.fixture(scope="module")
def client():
    with running(SolidModel()) as server:
        yield openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def check(answer: BaseModel, *absent: str) -> None:
    """Validate an answer, which the package takes as it is, and see that no field is missing."""
    kind = type(answer)
    kind.model_validate(answer.model_dump(), strict=True)
    missing = {name for name in kind.model_fields if getattr(answer, name) is None}
    assert missing == ABSENT.get(kind, set()) | set(absent)


@pytest.mark.parametrize("quality", ["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"])
@pytest.mark.parametrize(("form", "other"), [("url", "b64_json"), ("b64_json", "url")])
def test_an_answer_is_complete(client, quality, form, other):
    answer = client.images.generate(
        prompt="a", response_format=form, quality=quality, user="someone", extra_body={"safety_identifier": "x"}
    )
    check(answer)
    check(answer.data[0], other)
    assert answer.safety_identifier == "x"


@pytest.mark.parametrize("quality", ["auto", "hd"])
def test_events_of_a_stream_are_complete(client, quality):
    events = list(
        client.images.generate(prompt="a", stream=True, partial_images=1, quality=quality, safety_identifier="x")
    )
    assert {type(one) for one in events} == {ImageGenPartialImageEvent, ImageGenCompletedEvent}
    events += client.images.edit(image=SQUARE, mask=HOLE.getvalue(), prompt="a", stream=True, safety_identifier="x")
    assert type(events[-1]) is ImageEditCompletedEvent
    for one in events:
        check(one)


def test_edits_variations_and_models_are_complete(client):
    check(client.images.edit(image=SQUARE, mask=HOLE.getvalue(), prompt="a", user="someone"))
    with pytest.warns(DeprecationWarning, match="deprecated"):
        check(client.images.create_variation(image=SQUARE, user="someone"))
    check(client.models.retrieve("gpt-image-1"))
    for one in client.models.list():
        check(one)
