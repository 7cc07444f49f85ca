"""A visit of the page of ``python -m dalle_jax serve`` with two small models."""

import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from flax import nnx
from PIL import Image
from small_painters import DALLE
from small_unclip import small_words, write_unclip

from dalle_jax.config.render import render
from dalle_jax.pipelines.load.models import ModelFile, PipelineFile
from dalle_jax.train.checkpoints.save_weights import save_weights
from tests.command_processes import start_python

CAPTIONS = """() => {
  window.captions = new Set();
  const images = document.getElementById("images");
  const note = () => images.querySelectorAll(".caption").forEach((one) => window.captions.add(one.textContent));
  new MutationObserver(note).observe(images, { subtree: true, childList: true, characterData: true });
}"""


def write_transformer(folder: Path, unclip: Path) -> None:
    """Write a small transformer that shares image tokenizer and CLIP with an unCLIP's folder."""
    text = render(ModelFile(DALLE))
    files = {"model.gin": text.encode(), "text.model": small_words()}
    save_weights(folder / "transformer", DALLE.build(nnx.Rngs(3)), text, files)
    shared = {"image_tokenizer": str(unclip / "tokenizer"), "clip": str(unclip / "clip")}
    (folder / "pipeline.gin").write_text(render(PipelineFile({"transformer": "transformer"} | shared)))


def wait_until_ready(url: str) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{url}/readyz").close()
            return
        except urllib.error.HTTPError:
            time.sleep(0.2)
    raise AssertionError("not ready within 300 s")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Serve both models in a process, and see that it ends well."""
    write_unclip(tmp_path / "unclip")
    write_transformer(tmp_path / "small", tmp_path / "unclip")
    models = [flag for name in ("small", "unclip") for flag in ("--model", str(tmp_path / name))]
    compiled = ["--compiled", str(tmp_path / "programs")]
    process = start_python(["-m", "dalle_jax", "serve", *models, "--port", "0", *compiled])
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    try:
        wait_until_ready(url)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_whole_visit_of_a_served_transformer_and_a_served_unclip(visit, address: str):
    page = visit(url=address)
    page.context.set_default_timeout(120_000)
    runs = page.locator("#history .title")
    page.evaluate(CAPTIONS)
    with urllib.request.urlopen(f"{address}/v1/models") as answer:
        options = json.load(answer)["data"][0]["abilities"]["options"]
    assert {"seed", "guidance"} <= set(options)
    assert not [option for option in options if page.locator(f"#{option}").count() != 1]
    page.fill("#prompt", "a red circle")
    page.fill("#n", "2")
    page.fill("#candidates", "4")
    page.click("#start")
    runs.nth(0).wait_for()
    seen = page.evaluate("[...window.captions]")
    assert {f"Image {image}, partial image {part}" for image in (1, 2) for part in (1, 2, 3)} <= set(seen)

    page.get_by_role("button", name="Edit image 1").click()
    page.locator("#mask").click(position={"x": 60, "y": 60})
    page.get_by_role("slider", name="Extend bottom").press("End")
    page.click("#start-edit")
    runs.nth(1).wait_for()
    page.get_by_role("button", name="Details of image 1").click()
    page.locator("#details").wait_for()
    assert "16 × 32 pixels" in page.locator("#details-facts").inner_text()
    page.keyboard.press("Escape")

    page.fill("#n", "1")
    page.fill("#candidates", "")
    page.select_option("#output_format", "gif")
    page.click("#start")
    runs.nth(2).wait_for()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download image 1").click()
    with Image.open(saved.value.path()) as image:
        assert (image.format, image.size) == ("GIF", (16, 16)) and image.n_frames > 1

    page.select_option("#model", "unclip")
    page.select_option("#output_format", "png")
    page.click("#start-change")
    runs.nth(3).wait_for()
    page.get_by_role("button", name="Vary image 1").click()
    runs.nth(4).wait_for()
    titles = ["Variations: ", "Change: ", "", "Edit: ", ""]
    assert [title.removesuffix("a red circle") for title in runs.all_inner_texts()] == titles
