"""The command ``serve`` on a mesh of four devices, in one process or in two."""

import base64
import contextlib
import io
import os
import signal
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import openai
import pytest
from PIL import Image
from small_unclip import write_unclip

from dalle_jax.pipelines.load.pipeline import load_pipeline
from dalle_jax.pipelines.request import Request
from tests.command_processes import ends, start_processes, start_python
from tests.serve.test_serve_command import IMAGE, is_ready, mask, write_transformer

pytestmark = pytest.mark.slow
PROMPT = "a red circle"


@dataclass
class Served:
    """A server on a mesh, its processes, and the folders of its models by name."""

    url: str
    processes: list
    folders: dict

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def image(self, model: str, seed: int, **own) -> np.ndarray:
        """Draw one image, and return its pixels."""
        answer = self.client().images.generate(prompt=PROMPT, model=model, extra_body={"seed": seed} | own)
        return pixels(answer.data[0])


def pixels(image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image.b64_json))))


def served(folders: dict, processes: int, **variables: str) -> Served:
    models = [flag for name, place in folders.items() for flag in ("--model", f"{name}={place}")]
    command = ["-m", "dalle_jax", "serve", *models, "--port", "0", "--batch", "4", "--mesh", "data=-1"]
    devices = 4 // processes
    started = (
        [start_python(command, devices)]
        if processes == 1
        else start_processes([command] * processes, devices, **variables)
    )
    url = started[0].stdout.readline().strip()
    while not url.startswith("http"):  # lines of Gloo
        assert started[0].poll() is None, started[0].stderr.read()
        url = started[0].stdout.readline().strip()
    end = time.monotonic() + 180
    while not is_ready(url):
        assert time.monotonic() < end
        assert all(one.poll() is None for one in started)
        time.sleep(0.2)
    return Served(url, started, folders)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict:
    root = tmp_path_factory.mktemp("served")
    write_unclip(root / "unclip")
    write_transformer(root / "words", root / "unclip")
    return {"words": root / "words", "unclip": root / "unclip"}


@pytest.fixture(scope="module", params=[1, 2])
def server(request, folders):
    found = served(folders, request.param)
    yield found
    for one in found.processes:
        one.kill()


@pytest.mark.parametrize("model", ["words", "unclip"])
def test_images_in_company_are_those_drawn_alone_and_those_of_one_device(server, model):
    alone = {seed: server.image(model, seed) for seed in range(6)}
    with ThreadPoolExecutor(6) as pool:
        company = dict(zip(alone, pool.map(lambda seed: server.image(model, seed), alone), strict=True))
    pipeline = load_pipeline(server.folders[model], batch=4)
    for seed, image in alone.items():
        np.testing.assert_array_equal(company[seed], image)
        options = pipeline.options(candidates=1, keep=1, seed=seed)
        np.testing.assert_array_equal(pipeline.draw([Request(PROMPT, options)])[0].pixels[0], image)
    assert len({one.tobytes() for one in alone.values()}) > 1


def test_edits_variations_and_streams_are_drawn_and_a_client_that_goes_away_holds_up_nobody(server):
    client, before = server.client(), server.image("words", 1)
    for model in ("words", "unclip"):
        edited = pixels(client.images.edit(image=IMAGE, mask=mask(), prompt=PROMPT, model=model).data[0])
        own = np.asarray(Image.open(io.BytesIO(IMAGE)))
        assert np.array_equal(edited[:4], own[:4])
        assert not np.array_equal(edited[4:12, 4:12], own[4:12, 4:12])
        with pytest.warns(DeprecationWarning, match="deprecated"):
            client.images.create_variation(image=IMAGE, model=model, response_format="b64_json")
    stream = client.images.generate(
        prompt=PROMPT, model="words", n=8, stream=True, partial_images=3, extra_body={"seed": 1}
    )
    next(iter(stream))
    stream.close()
    with contextlib.suppress(openai.APITimeoutError):
        client.with_options(timeout=0.01).images.generate(prompt=PROMPT, model="words", n=10)
    np.testing.assert_array_equal(server.image("words", 1), before)


def test_sigterm_to_the_first_process_finishes_what_was_accepted_and_ends_all_with_0(server):
    found = []
    asking = [threading.Thread(target=lambda seed=seed: found.append(server.image("words", seed))) for seed in range(6)]
    waited = before = _accepted(server.url)
    for thread in asking:
        thread.start()
    while waited < before + 6:
        waited = _accepted(server.url)
    server.processes[0].send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join(60)
    assert len(found) == 6
    assert [code for code, _, _ in ends(server.processes)] == [0] * len(server.processes)


def _accepted(url: str) -> float:
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    names = ("dalle_jax_wait_seconds_count ", "dalle_jax_queue_jobs ")
    return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith(names))


@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_is_killed_ends_the_other_with_one_line(folders, lost):
    found = served({"words": folders["words"]}, 2, DALLE_JAX_LOST="5")
    found.processes[lost].kill()
    codes, _, errors = zip(*ends(found.processes), strict=True)
    assert codes[1 - lost] == os.EX_TEMPFAIL
    last = errors[1 - lost].splitlines()[-1]
    assert last.startswith(f"dalle-jax: error: process {lost} ended the run: ")
    assert "Traceback" not in errors[1 - lost]
