"""The command ``serve`` as a process of its own, with an unCLIP and a transformer, through the package openai."""

import argparse
import asyncio
import base64
import contextlib
import io
import json
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from flax import nnx
from PIL import Image
from small_painters import DALLE
from small_unclip import small_words, write_unclip

from dalle_jax.commands.serving import serve
from dalle_jax.commands.serving.serve import named_folders
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.images.png import encode_png
from dalle_jax.pipelines.compiled_network import local_layout
from dalle_jax.pipelines.load.models import ModelFile, absolute_needs
from dalle_jax.train.checkpoints.save_weights import save_weights
from tests.command_processes import start_command

KEY = "sk-0123456789abcdef"


def write_transformer(folder, unclip) -> None:
    needs = absolute_needs(image_tokenizer=str(unclip / "tokenizer"), clip=str(unclip / "clip"))
    text = render(ModelFile(DALLE, needs))
    files = {"model.gin": text.encode(), "text.model": small_words()}
    save_weights(folder, DALLE.build(nnx.Rngs(3)), text, files)


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    write_unclip(root / "unclip")
    write_transformer(root / "words", root / "unclip")
    models = ["--model", str(root / "words"), "--model", f"image={root / 'unclip'}"]
    (root / "keys.txt").write_text(f"# of the tests\n{KEY}\n")
    limits = ["--keys", str(root / "keys.txt"), "--queue", "16"]
    started = start_command(["serve", *models, "--port", "0", "--batch", "4", "--lanes", "2", *limits])
    yield started
    started.kill()


@pytest.fixture(scope="module")
def url(process) -> str:
    found = process.stdout.readline().strip()
    assert found.startswith("http://127.0.0.1:"), process.stderr.read()
    assert urllib.request.urlopen(f"{found}/healthz").status == 200  # also while it compiles
    threading.Thread(target=process.stderr.read, daemon=True).start()
    while not is_ready(found):
        time.sleep(0.1)
    return found


def is_ready(url: str) -> bool:
    with contextlib.suppress(urllib.error.HTTPError):
        return urllib.request.urlopen(f"{url}/readyz").status == 200
    return False


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY)


def pixels(image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image.b64_json))))


IMAGE = encode_png(np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8))


def mask() -> bytes:
    alpha = np.full((16, 16, 4), 255, np.uint8)
    alpha[4:12, 4:12, 3] = 0
    out = io.BytesIO()
    Image.fromarray(alpha).save(out, "PNG")
    return out.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["words", "image"])
def test_a_seed_gives_the_same_image_again(client, model):
    first, second = (
        client.images.generate(prompt="a red circle", model=model, n=2, extra_body={"seed": 5}) for _ in range(2)
    )
    assert [one.b64_json for one in first.data] == [one.b64_json for one in second.data]
    assert pixels(first.data[0]).shape == (16, 16, 3)


@pytest.mark.slow
def test_the_old_body_by_curl_downloads_a_png(url):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    body = json.dumps({"prompt": "a red circle", "n": 1, "size": "256x256"})
    command = [
        "curl",
        "-sS",
        "--fail",
        f"{url}/v1/images/generations",
        "-H",
        f"Authorization: Bearer {KEY}",
        "-H",
        "Content-Type: application/json",
        "-d",
        body,
    ]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    content = subprocess.run(
        ["curl", "-sS", "--fail", answer["data"][0]["url"]], capture_output=True, check=True
    ).stdout
    assert Image.open(io.BytesIO(content)).size == (256, 256)


@pytest.mark.slow
def test_curl_sends_a_form(url, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / "image.png").write_bytes(IMAGE)
    (tmp_path / "mask.png").write_bytes(mask())
    command = ["curl", "-sS", "--fail", f"{url}/v1/images/edits", "-F", f"image=@{tmp_path}/image.png"]
    command += ["-H", f"Authorization: Bearer {KEY}"]
    command += ["-F", f"mask=@{tmp_path}/mask.png", "-F", "prompt=a red circle", "-F", "response_format=b64_json"]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert answer["output_format"] == "png"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["words", "image"])
def test_an_edit_with_a_mask_keeps_every_other_pixel(client, model):
    answer = client.images.edit(image=IMAGE, mask=mask(), prompt="a red circle", n=2, model=model)
    own = np.asarray(Image.open(io.BytesIO(IMAGE)))
    for one in answer.data:
        changed = (pixels(one) != own).any(axis=2)
        assert changed[4:12, 4:12].any()
        changed[4:12, 4:12] = False
        assert not changed.any()


@pytest.mark.slow
def test_an_edit_of_several_images_and_variations_go_to_the_model_that_can(client):
    joined = client.images.edit(
        image=[IMAGE, IMAGE], prompt="a red circle", model="gpt-image-2", extra_body={"seed": 2}
    )
    assert joined.model_extra["model"] == "image"
    with pytest.warns(DeprecationWarning, match="deprecated"):
        varied = client.images.create_variation(image=IMAGE, n=2, response_format="b64_json", model="image")
    assert not np.array_equal(*map(pixels, varied.data))


@pytest.mark.slow
def test_the_asynchronous_client_streams_what_the_plain_one_gets(client, url):
    async def streamed():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY) as asynchronous:
            stream = await asynchronous.images.generate(
                prompt="a red circle", model="words", stream=True, partial_images=3, extra_body={"seed": 9}
            )
            return [event async for event in stream]

    events = asyncio.run(streamed())
    plain = client.images.generate(prompt="a red circle", model="words", extra_body={"seed": 9})
    assert [one.type.rpartition(".")[2] for one in events] == ["partial_image"] * 3 + ["completed"]
    np.testing.assert_array_equal(pixels(events[-1]), pixels(plain.data[0]))


@pytest.mark.slow
def test_every_method_of_the_asynchronous_client_answers_and_streams(url):
    async def answers() -> list[openai.types.ImagesResponse]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY) as asynchronous:
            images = asynchronous.images
            assert {one for one in dir(images) if not one.startswith("_")} == {
                "generate", "edit", "create_variation", "with_raw_response", "with_streaming_response",
            }  # fmt: skip
            raw = images.with_raw_response
            found = [
                await images.generate(prompt="a red circle", model="gpt-image-2"),
                await images.edit(image=[IMAGE, IMAGE], prompt="a red circle", model="image"),
                await images.create_variation(image=IMAGE, model="words", response_format="b64_json"),
                (await raw.edit(image=IMAGE, mask=mask(), prompt="a", model="gpt-image-2")).parse(),
            ]
            async with images.with_streaming_response.generate(prompt="a", model="gpt-image-2") as read:
                found.append(await read.parse())
            stream = await images.edit(image=IMAGE, mask=mask(), prompt="a", stream=True)
            assert [event.type async for event in stream] == ["image_edit.completed"]
            return found

    with pytest.warns(DeprecationWarning, match="deprecated"):
        found = asyncio.run(answers())
    assert [pixels(one.data[0]).shape for one in found] == [(16, 16, 3)] * 5


@pytest.mark.slow
def test_errors_are_those_of_the_package_with_the_field_and_an_id(client, url):
    with pytest.raises(openai.AuthenticationError) as refused:
        client.with_options(api_key="sk-wrong").images.generate(prompt="a")
    with pytest.raises(openai.NotFoundError) as unknown:
        client.images.generate(prompt="a", model="dall-e-9")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.images.edit(image=b"none", prompt="a")
    with pytest.raises(openai.BadRequestError) as streamed:
        client.images.generate(prompt="a", n=11, stream=True)
    found = [one.value for one in (refused, unknown, wrong, streamed)]
    assert [(one.code, one.param) for one in found] == [
        ("invalid_api_key", None), ("model_not_found", "model"), ("invalid_image", "image"), ("invalid_value", "n"),
    ]  # fmt: skip
    assert all(one.request_id.startswith("req_") for one in found)
    assert [one.id for one in client.models.list()] == ["words", "image"]


@pytest.mark.slow
def test_clients_beyond_the_queue_try_again_until_they_are_served(client):
    patient = client.with_options(max_retries=20).images.with_raw_response
    seeds = range(48)
    with ThreadPoolExecutor(48) as pool:
        given = {"prompt": "a", "model": "words", "n": 4}
        found = list(pool.map(lambda seed: patient.generate(**given, extra_body={"seed": seed}), seeds))
    assert [one.parse().model_extra["seed"] for one in found] == list(seeds)
    assert any(one.retries_taken for one in found)


@pytest.mark.slow
def test_steps_of_a_decoder_can_be_chosen(client):
    client.images.generate(prompt="a", model="image", extra_body={"steps": 4})
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="a", model="image", extra_body={"steps": 5})
    assert caught.value.param == "steps"


@pytest.mark.slow
def test_sigterm_finishes_what_was_accepted_and_ends_with_0(client, url, process):
    found = []

    def ask(seed: int) -> None:
        found.append(client.images.generate(prompt="a", model="words", n=4, extra_body={"seed": seed}))

    def accepted() -> float:
        asked = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {KEY}"})
        text = urllib.request.urlopen(asked).read().decode()
        names = ("dalle_jax_wait_seconds_count", "dalle_jax_queue_jobs")
        return sum(float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1]) for name in names)

    before = accepted()
    asking = [threading.Thread(target=ask, args=[seed]) for seed in range(8)]
    for thread in asking:
        thread.start()
    while accepted() < before + 8:
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join(60)
    assert process.wait(60) == 0
    assert len(found) == 8


def test_forecasting_heads_want_one_model_and_windows_within_bounds():
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    for flags, message in (
        (["--forecast", "heads"], r"--forecast: expected one --model and a --window above 1, got 1 and 1"),
        (["--window", "257"], r"--window: expected between 1 and 256, got 257"),
    ):
        with pytest.raises(UserError, match=message):
            serve.run(parser.parse_args(["--model", "any", *flags]))


def test_lanes_are_those_of_the_cores_and_divide_the_batch(monkeypatch):
    monkeypatch.setattr(serve, "usable_cores", lambda: 3)
    given = [(None, None), (None, 8), (2, None), (1, None), (4, 8)]
    assert [serve.lanes_and_batch(*one, None) for one in given] == [(3, 6), (2, 8), (2, 4), (1, 2), (4, 8)]
    mesh = local_layout()
    assert serve.lanes_and_batch(None, None, mesh) == (1, 8)
    for lanes, batch, layout, message in (
        (3, 8, None, r"--batch: expected a multiple of the lanes \(3\), got 8"),
        (0, 8, None, "--lanes: expected at least 1, got 0"),
        (2, 8, mesh, "--lanes: expected 1 with --mesh, whose devices share the batch, got 2"),
    ):
        with pytest.raises(UserError, match=message):
            serve.lanes_and_batch(lanes, batch, layout)


def test_models_have_the_names_of_their_folders_or_those_that_are_given():
    assert named_folders(["runs/demo", "x=runs/other", "runs/a=b"]) == {
        "demo": "runs/demo", "x": "runs/other", "a=b": "runs/a=b",
    }  # fmt: skip
    with pytest.raises(UserError, match="expected a name of its own"):
        named_folders(["runs/demo", "other/demo"])
