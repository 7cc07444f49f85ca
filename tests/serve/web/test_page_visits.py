"""Visits of the page in a browser: everything that a person can do there, with the mouse and by the keyboard."""

import base64
import json
import urllib.request
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from dalle_jax.serve.engine.works import Edit, Generate, Vary
from tests.serve.web.painted_model import BROKEN, HELD, SIDE, TRANSFORMER

PIXELS = """async image => {
  await image.decode();
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  return [...pen.getImageData(0, 0, canvas.width, canvas.height).data];
}"""

GROUND = "getComputedStyle(document.body).backgroundColor"
ARRIVE = """([event, bytes, type]) => {
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([new Uint8Array(bytes)], "image", { type }));
  const given = { bubbles: true, cancelable: true };
  const sent = event === "paste"
    ? new ClipboardEvent(event, { ...given, clipboardData })
    : new DragEvent(event, { ...given, dataTransfer: clipboardData });
  document.body.dispatchEvent(sent);
}"""
CLIPBOARD = f"""async () => {{
  const [item] = await navigator.clipboard.read();
  const image = new Image();
  image.src = URL.createObjectURL(await item.getType("image/png"));
  return ({PIXELS})(image);
}}"""
STORED_RUNS = """() => new Promise(resolve => {
  indexedDB.open("dalle_jax").onsuccess = ({ target }) => {
    const counting = target.result.transaction("runs").objectStore("runs").count();
    counting.onsuccess = () => resolve(counting.result);
  };
})"""

HOLD_HISTORY = """() => new Promise(resolve => {
  indexedDB.open("dalle_jax").onsuccess = ({ target }) => {
    const store = target.result.transaction("runs", "readwrite").objectStore("runs");
    window.held = true;
    const wait = () => { if (window.held) store.count().onsuccess = wait; };
    wait();
    resolve();
  };
})"""


def generate(page, prompt: str = "a red circle", images: int = 2) -> None:
    page.fill("#prompt", prompt)
    page.fill("#n", str(images))
    page.click("#start")
    page.get_by_role("button", name=f"Download image {images}").wait_for()


def files_of(server, **fields: object) -> list[bytes]:
    """Return the files that the server answers a program with."""
    body = json.dumps(fields | {"response_format": "b64_json"}).encode()
    address, headers = f"{server.url}/v1/images/generations", {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, body, headers)) as answer:
        return [base64.b64decode(one["b64_json"]) for one in json.load(answer)["data"]]


def png(size: tuple[int, int]) -> bytes:
    out = BytesIO()
    Image.new("RGB", size, "olive").save(out, "PNG")
    return out.getvalue()


def drag(page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=3)
    page.mouse.up()


def test_a_whole_visit_generates_paints_extends_varies_and_downloads(visit, server, models):
    page, model = visit(), models[0]
    files = files_of(server, prompt="a red circle", n=2, seed=7)
    model.works.clear()
    page.fill("#seed", "7")
    generate(page)
    assert "score 0.300" in page.locator(".card").first.inner_text()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download image 2").click()
    assert saved.value.suggested_filename == "a-red-circle-seed7-2.png"
    assert Path(saved.value.path()).read_bytes() == files[1]

    page.get_by_role("button", name="Edit image 1").click()
    page.locator("#mask").wait_for()
    box = page.locator("#mask").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    drag(page, middle, (middle[0] + box["width"] / 8, middle[1]))
    handle = page.get_by_role("slider", name="Extend right").bounding_box()
    held = (handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    drag(page, held, (held[0] + box["width"] / 4, held[1]))
    page.fill("#edit-prompt", "a blue ring")
    page.click("#start-edit")

    page.get_by_role("button", name="Vary image 1").click()
    runs = page.locator("#history .title")
    runs.nth(2).wait_for()
    assert runs.all_inner_texts() == ["Variations: a blue ring", "Edit: a blue ring", "a red circle"]
    drawn, edited, varied = model.works
    assert isinstance(drawn, Generate) and (drawn.prompt, drawn.options.seed) == ("a red circle", 7)
    assert isinstance(edited, Edit) and edited.prompt == "a blue ring" and edited.hidden is not None
    assert edited.images[0].size == (SIDE + SIDE // 4, SIDE)
    assert edited.hidden[:, SIDE:].all()
    inside = edited.hidden[:, :SIDE]
    assert inside[SIDE // 2, SIDE // 2 : SIDE // 2 + SIDE // 8].all() and 0.02 < inside.mean() < 0.3
    given = np.asarray(Image.open(BytesIO(files[0])))
    assert np.array_equal(edited.images[0].pixels[:, :SIDE], given)
    assert isinstance(varied, Vary) and varied.image.size == edited.images[0].size


def test_images_can_be_varied_before_the_history_has_kept_them(visit, models):
    page = visit()
    page.evaluate(HOLD_HISTORY)
    generate(page)
    page.get_by_role("button", name="Vary image 1").click()
    page.locator("#images-prompt", has_text="Variations: a red circle").wait_for()
    page.evaluate("window.held = false")
    page.locator("#history .title").nth(1).wait_for()
    assert [type(work) for work in models[0].works[-2:]] == [Generate, Vary]


def test_theme_and_history_outlive_a_reload_and_the_history_restores_a_run_and_is_cleared(visit):
    page = visit(theme="dark")
    dark = page.evaluate(GROUND)
    page.select_option("#theme", "light")
    light = page.evaluate(GROUND)
    page.fill("#temperature", "0.7")
    generate(page, "a green square")
    before = page.locator("#images img").first.evaluate(PIXELS)
    page.reload()
    assert page.evaluate(GROUND) == light != dark
    page.select_option("#theme", "system")
    assert page.evaluate(GROUND) == dark
    page.locator("#history .run").first.click()
    assert page.locator("#images img").first.evaluate(PIXELS) == before
    assert (page.input_value("#prompt"), page.input_value("#temperature")) == ("a green square", "0.7")
    page.get_by_role("button", name="Details of image 1").click()
    seed = page.locator("#details-facts dt", has_text="Seed").locator("+ dd").inner_text()
    page.get_by_role("button", name="Use this seed").click()
    assert page.input_value("#seed") == seed
    page.click("#clear-history")
    page.get_by_role("button", name="Clear", exact=True).click()
    page.wait_for_selector("#history-section", state="hidden")
    assert page.evaluate(STORED_RUNS) == 0


def test_an_opened_file_is_changed_as_a_whole_by_a_model_that_can(visit, models):
    page, model = visit(), models[1]
    page.select_option("#model", "painted-unclip")
    page.fill("#strength", "0.4")
    page.set_input_files("#image-file", {"name": "photo.png", "mimeType": "image/png", "buffer": png((5, 9))})
    page.fill("#edit-prompt", "in the evening")
    page.get_by_role("button", name="Change the whole image").click()
    page.get_by_role("button", name="Download image 4").wait_for()
    (work,) = model.works
    assert isinstance(work, Edit) and (work.hidden, work.strength, work.prompt) == (None, 0.4, "in the evening")
    assert work.images[0].size == (5, 9)


def test_an_image_that_is_dropped_or_pasted_is_opened_and_a_gif_is_sent_as_png(visit, models):
    page, model = visit(), models[0]
    out = BytesIO()
    Image.new("RGB", (7, 5), "olive").save(out, "GIF")
    page.evaluate(ARRIVE, ["paste", list(out.getvalue()), "image/gif"])
    page.get_by_role("slider", name="Extend right").press("ArrowRight")
    page.click("#start-edit")
    page.get_by_role("button", name="Download image 4").wait_for()
    assert model.works[-1].images[0].size == (8, 5)
    page.evaluate(ARRIVE, ["drop", list(png((6, 3))), "image/png"])
    page.get_by_label("Mask of an image of 6 by 3 pixels, 0 % painted").wait_for()
    page.evaluate(ARRIVE, ["drop", list(b"none"), "image/png"])
    page.get_by_text("The browser cannot read this file as an image.").wait_for()


def test_images_are_turned_over_copied_and_kept_when_the_next_request_fails(visit):
    page = visit(refused=True)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.fill("#seed", "3")
    generate(page, images=3)
    page.get_by_role("button", name="Details of image 1").click()
    page.get_by_role("heading", name="Image 1 of 3").wait_for()
    page.keyboard.press("ArrowLeft")
    page.get_by_role("heading", name="Image 3 of 3").wait_for()
    page.get_by_role("button", name="Next").click()
    page.get_by_role("heading", name="Image 1 of 3").wait_for()
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate(CLIPBOARD) == page.locator("#details-image").evaluate(PIXELS)
    page.keyboard.press("Escape")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download all").click()
    assert saved.value.suggested_filename == "a-red-circle-seed3-1.png"
    page.fill("#top_p", "2")
    page.click("#start")
    page.locator("#top_p-error").wait_for()
    assert page.locator(".card img").count() == 3
    page.get_by_role("button", name="Reset settings").click()
    assert (page.input_value("#top_p"), page.input_value("#seed"), page.input_value("#n")) == ("", "", "4")


def test_partial_images_are_shown_and_cancelling_ends_the_work(visit, models):
    page, model = visit(), models[0]
    page.fill("#prompt", HELD)
    page.keyboard.press("Control+Enter")
    page.get_by_text("Image 4, partial image 3").wait_for()
    assert page.locator(".card.waiting img.small").count() == 4
    page.click("#cancel")
    page.get_by_text("Cancelled.").wait_for()
    assert model.cancelled.wait(5)
    assert page.locator(".card").count() == 0
    generate(page)


def test_the_settings_are_those_of_the_model_and_errors_are_the_servers_words(visit):
    page = visit(refused=True)
    assert all(page.locator(f"#{option}").count() == 1 for option in TRANSFORMER.options)
    assert page.get_by_label("Guidance", exact=True).get_attribute("placeholder") == "3"
    page.fill("#top_p", "2")
    page.fill("#prompt", "a red circle")
    page.click("#start")
    page.get_by_text("top_p: input should be less than or equal to 1, got 2").wait_for()
    assert page.evaluate("document.activeElement.id") == "top_p"
    page.fill("#top_p", "")
    page.fill("#prompt", BROKEN)
    page.click("#start")
    page.get_by_text("seed: expected another one").wait_for()
    assert page.evaluate("document.activeElement.id") == "seed"
    assert page.locator(".card").count() == 0
    page.select_option("#model", "painted-unclip")
    assert page.locator("#temperature, #top_k, #top_p, #negative_prompt, #candidates").count() == 0
    assert page.locator("#steps option").all_inner_texts() == ["model's own", "2", "4", "8"]
    page.fill("#n", "99")
    page.click("#start")
    page.get_by_text("n: input should be less than or equal to 10, got 99").wait_for()
    page.fill("#prompt", "")
    page.click("#start")
    assert page.evaluate("document.activeElement.id") == "prompt"


def test_events_are_read_whatever_the_pieces_of_a_stream(visit):
    read = """async ([bytes, size]) => {
      const { readEvents } = await import("/assets/js/event_stream.js");
      const body = new ReadableStream({
        start(controller) {
          for (let i = 0; i < bytes.length; i += size) controller.enqueue(new Uint8Array(bytes.slice(i, i + size)));
          controller.close();
        },
      });
      const found = [];
      for await (const event of readEvents(body)) found.push(event);
      return found;
    }"""
    text = (
        ': waiting\n\nevent: a\ndata: {"a": "ä€😀"}\n\ndata: {"b":\r\ndata:  2}\r\n\r\ndata: [DONE]\n\ndata: {"c": 3}'
    )
    page = visit()
    for size in (1, 2, 3, 1000):
        assert page.evaluate(read, [list(text.encode()), size]) == [{"a": "ä€😀"}, {"b": 2}, {"c": 3}]
