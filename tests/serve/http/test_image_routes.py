"""The routes that draw, through the package openai, against a server in this process whose model is fake."""

import asyncio
import base64
import contextlib
import io
import threading
import time
import urllib.request

import numpy as np
import openai
import pytest
from PIL import Image
from running_server import Running, running
from solid_model import EVERYTHING, SolidModel, colour

from dalle_jax.images.png import encode_png
from dalle_jax.serve.engine.served_model import Abilities
from dalle_jax.serve.safety import ConceptFilter


@pytest.fixture(scope="module")
def server():
    plain = SolidModel("plain", Abilities("plain", side=8, options=("seed", "candidates", "guidance")))
    with running(SolidModel(), plain) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Running):
    return client_of(server)


def client_of(server: Running, key="none", retries=0):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=retries)


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def of_base64(image) -> np.ndarray:
    return pixels(base64.b64decode(image.b64_json))


def generate_quietly(client) -> None:
    with contextlib.suppress(openai.APIStatusError):
        client.images.generate(prompt="a")


def open_after_refusals(server: Running, model: SolidModel, count: int) -> None:
    refusals = server.engine.metrics.requests.labels("/v1/images/generations", "429")
    while refusals._value.get() < count:
        time.sleep(0.001)
    model.gate.set()


def fetch(url: str) -> tuple[bytes, str]:
    with urllib.request.urlopen(url) as answer:
        return answer.read(), answer.headers["content-type"]


SQUARE = encode_png(np.zeros((8, 8, 3), np.uint8))
HOLE = io.BytesIO()
Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(HOLE, "PNG")


def test_the_old_body_gives_urls_that_download_a_png(client):
    answer = client.images.generate(prompt="a red circle", n=2, size="16x16", extra_body={"seed": 3})
    contents = [fetch(one.url) for one in answer.data]
    assert [kind for _, kind in contents] == ["image/png"] * 2
    assert [pixels(one).shape for one, _ in contents] == [(16, 16, 3)] * 2
    assert pixels(contents[0][0])[0, 0, 0] == colour(3, 1)[0, 0, 0]  # candidate 1 is the best of two


@pytest.mark.parametrize("model", ["gpt-image-2", "solid"])
def test_names_of_later_models_and_own_names_give_base64(client, model):
    answer = client.images.generate(prompt="a", model=model, extra_body={"seed": 3})
    assert answer.data[0].url is None
    np.testing.assert_array_equal(of_base64(answer.data[0]), colour(3, 0))
    assert answer.usage.total_tokens == 1 + 4
    assert answer.model_extra["seed"] == 3


def test_clip_keeps_the_best_candidates(client):
    answer = client.images.generate(prompt="a", model="solid", n=2, extra_body={"seed": 1, "candidates": 6})
    assert [one.model_extra["candidate"] for one in answer.data] == [5, 4]
    high = client.images.generate(prompt="a", model="solid", n=2, quality="high", extra_body={"seed": 1})
    assert [one.model_extra["candidate"] for one in high.data] == [7, 6]
    assert high.quality == "high"


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "gif"])
def test_a_file_of_each_format_is_made_and_says_that_a_model_drew_it(client, form):
    frames = {"frame_count": 3} if form == "gif" else {}
    answer = client.images.generate(prompt="a", model="solid", output_format=form, extra_body=frames | {"seed": 3})
    content = base64.b64decode(answer.data[0].b64_json)
    image = Image.open(io.BytesIO(content))
    assert image.format == form.upper()
    assert b"trainedAlgorithmicMedia" in content
    assert getattr(image, "n_frames", 1) == (3 if form == "gif" else 1)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"style": "vivid"}, "style"),
        ({"complexity": "low"}, "complexity"),
        ({"background": "transparent"}, "background"),
        ({"output_format": "svg"}, "output_format"),
        ({"svg": {"model": "x"}}, "svg"),
        ({"output_compression": 50}, "output_compression"),
        ({"frame_count": 3}, "frame_count"),
        ({"frame_duration_ms": 30}, "frame_duration_ms"),
        ({"output_format": "gif", "stream": True}, "stream"),
        ({"partial_images": 2}, "partial_images"),
        ({"stream": True, "response_format": "url"}, "response_format"),
        ({"size": "5000x5000"}, "size"),
        ({"size": "4000x100"}, "size"),
        ({"steps": 3}, "steps"),
        ({"n": 3, "candidates": 2}, "candidates"),
        ({"n": 10, "quality": "max"}, "quality"),
        ({"prompt": "refuse me"}, "prompt"),
        ({"model": "plain", "temperature": 0.5}, "temperature"),
        ({"model": "plain", "top_k": 3}, "top_k"),
        ({"model": "plain", "negative_prompt": "x"}, "negative_prompt"),
        ({"model": "plain", "candidates": 2}, "candidates"),
        ({"model": "plain", "quality": "high"}, "quality"),
        ({"model": "plain", "stream": True, "partial_images": 1}, "partial_images"),
        ({"model": "plain", "output_format": "gif"}, "output_format"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_a_400_that_names_it(client, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(
            **({"prompt": "a"} | {k: v for k, v in fields.items() if k in GIVEN}),
            extra_body={k: v for k, v in fields.items() if k not in GIVEN},
        )
    assert caught.value.param == param
    assert caught.value.request_id.startswith("req_")
    assert caught.value.response.headers["x-should-retry"] == "false"


GIVEN = ("prompt", "model", "n", "quality", "size", "style", "background", "response_format")


def test_an_unknown_model_is_a_404(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(prompt="a", model="no-such-model")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_models_are_listed_with_their_abilities(client):
    assert [one.id for one in client.models.list()] == ["solid", "plain"]
    assert client.models.retrieve("dall-e-2").model_extra["abilities"]["partials"] is True
    assert client.models.retrieve("plain").model_extra["defaults"] == {"guidance": 3.0}


def test_a_stream_has_partial_images_then_the_image_with_its_usage(client):
    stream = client.images.generate(prompt="a b", stream=True, partial_images=2, extra_body={"seed": 9})
    events = list(stream)
    assert [one.type.rpartition(".")[2] for one in events] == ["partial_image", "partial_image", "completed"]
    assert [one.partial_image_index for one in events[:2]] == [0, 1]
    np.testing.assert_array_equal(of_base64(events[0]), colour(9, 0) // 2)
    np.testing.assert_array_equal(of_base64(events[2]), colour(9, 0))
    assert (events[2].usage.input_tokens, events[2].usage.output_tokens) == (2, 4)
    assert events[2].model_extra["seed"] == 9


def test_a_stream_of_several_images_completes_each_and_its_usages_add_up(client):
    events = list(client.images.generate(prompt="a b", stream=True, n=3, partial_images=1))
    ends = [one for one in events if one.type == "image_generation.completed"]
    assert [one.image_index for one in ends] == [0, 1, 2]
    assert sum(one.usage.total_tokens for one in ends) == 2 + 3 * 4
    assert len(events) == 6


def test_an_error_within_a_stream_is_raised_by_the_package(client):
    with pytest.raises(openai.APIError, match="the server had an error"):
        list(client.images.generate(prompt="break", stream=True))


def test_a_fault_is_a_500_that_says_nothing_about_its_cause(client):
    with pytest.raises(openai.InternalServerError) as caught:
        client.images.generate(prompt="break")
    assert "secret" not in str(caught.value)
    assert client.images.generate(prompt="a").data  # and the engine goes on


def test_the_asynchronous_client_draws_and_streams(server):
    async def both():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            one = await client.images.generate(prompt="a", model="solid", extra_body={"seed": 4})
            stream = await client.images.generate(prompt="a", stream=True, partial_images=1)
            return one, [event.type async for event in stream]

    one, types = asyncio.run(both())
    np.testing.assert_array_equal(of_base64(one.data[0]), colour(4, 0))
    assert types == ["image_generation.partial_image", "image_generation.completed"]


def test_edits_with_a_mask_with_several_images_and_streamed(client, server):
    model = server.engine.models["solid"]
    client.images.edit(image=SQUARE, mask=HOLE.getvalue(), prompt="a", n=2, model="solid")
    assert model.seen[-1].work.hidden.all()
    assert model.seen[-1].work.options.kept == 2
    answer = client.images.edit(
        image=[SQUARE, SQUARE, SQUARE], prompt="a", model="gpt-image-2", extra_body={"strength": 0.5}
    )
    assert model.seen[-1].work.hidden is None
    assert len(model.seen[-1].work.images) == 3
    assert answer.usage.input_tokens_details.image_tokens == 12
    events = list(client.images.edit(image=SQUARE, mask=HOLE.getvalue(), prompt="a", stream=True, partial_images=2))
    assert [one.type for one in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert [one.partial_image_index for one in events[:2]] == [0, 1]


def test_the_transparent_pixels_of_an_image_alone_are_its_mask(client, server):
    client.images.edit(image=HOLE.getvalue(), prompt="a", model="solid")
    assert server.engine.models["solid"].seen[-1].work.hidden.all()


def test_variations_take_an_image_of_any_file_name(client):
    with pytest.warns(DeprecationWarning, match="deprecated"):
        answer = client.images.create_variation(image=io.BytesIO(SQUARE), n=2, size="256x256")
    assert len(answer.data) == 2
    assert pixels(fetch(answer.data[0].url)[0]).shape == (256, 256, 3)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"image": b"GIF89a, but no image"}, "image"),
        ({"image": SQUARE, "mask": b"none"}, "mask"),
        ({"image": SQUARE, "mask": encode_png(np.zeros((4, 4, 3), np.uint8))}, "mask"),
        ({"image": SQUARE, "mask": HOLE.getvalue(), "markup": SQUARE}, "markup"),
        ({"image": SQUARE, "input_fidelity": "high"}, "input_fidelity"),
        ({"image": SQUARE, "partial_images": 1}, "partial_images"),
        ({"image": SQUARE, "svg": {"model": "x"}}, "svg"),
        ({"image": [SQUARE] * 17}, "image"),
    ],
)
def test_an_edit_that_cannot_be_done_is_a_400_that_names_its_field(client, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(prompt="a", **fields)
    assert caught.value.param == param


def test_a_full_queue_is_a_429_after_which_the_package_tries_again(monkeypatch):
    model = SolidModel(room=1)
    with running(model, queue=2) as server:
        client = client_of(server)
        assert client.images.generate(prompt="a").data
        model.gate.clear()
        waiting = [threading.Thread(target=client.images.generate, kwargs={"prompt": "a"}) for _ in range(3)]
        for thread in waiting:
            thread.start()
        while server.engine.unfinished() < 3:
            time.sleep(0.001)
        with pytest.raises(openai.RateLimitError) as caught:
            client.images.generate(prompt="a")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert caught.value.response.headers["x-should-retry"] == "true"
        opener = threading.Thread(target=open_after_refusals, args=[server, model, 2])
        opener.start()
        answer = client_of(server, retries=2).images.with_raw_response.generate(prompt="a")
        assert answer.retries_taken == 1
        opener.join(10)
        for thread in waiting:
            thread.join(10)


def test_a_client_that_goes_away_frees_its_place():
    model = SolidModel(room=1)
    with running(model) as server:
        client = client_of(server)
        client.images.generate(prompt="a")
        model.gate.clear()
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.2).images.generate(prompt="a", extra_body={"seed": 77})
        while not model.seen[-1].cancelled:
            time.sleep(0.001)
        model.gate.set()
        assert client.images.generate(prompt="a").data
        assert not model.seen[1].ended


def test_a_request_past_its_deadline_is_a_504():
    model = SolidModel(room=1)
    with running(model, deadline=0.05) as server:
        client = client_of(server)
        model.gate.clear()
        first = threading.Thread(target=generate_quietly, args=[client])
        first.start()
        threading.Timer(0.2, model.gate.set).start()
        with pytest.raises(openai.InternalServerError) as caught:
            client.images.generate(prompt="a")
        assert caught.value.code == "deadline_exceeded"
        first.join(10)


def test_the_safety_filter_refuses_a_prompt_with_the_code_of_the_api():
    with running(SolidModel(), safety=ConceptFilter(["forbidden thing"])) as server:
        client = client_of(server)
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.generate(prompt="a FORBIDDEN   thing")
        assert caught.value.code == "content_policy_violation"
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.generate(prompt="a", moderation="low")
        assert caught.value.param == "moderation"
        assert client.images.generate(prompt="a thing").data


def test_metrics_count_images_and_answers(client, server):
    client.images.generate(prompt="a", model="solid")
    text = fetch(f"{server.url}/metrics")[0].decode()
    assert 'dalle_jax_images_total{model="solid"}' in text
    assert 'dalle_jax_requests_total{route="/v1/images/generations",status="200"}' in text


def test_abilities_of_the_fake_model_are_those_of_the_interface():
    assert EVERYTHING.partials
    assert isinstance(EVERYTHING, Abilities)
