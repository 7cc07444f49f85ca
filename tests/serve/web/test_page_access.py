"""The page by keyboard, for a screen reader, in both themes, and on a phone."""

import re
from pathlib import Path

from dalle_jax.serve.engine.works import Edit
from tests.running_server import running
from tests.serve.web.painted_model import SIDE, TRANSFORMER, PaintedModel

CHECKS = (Path(__file__).parent / "page_checks.js").read_text()
NAMED = {"button", "textbox", "spinbutton", "combobox", "slider", "radio", "image", "application", "dialog", "link"}


def faults(page) -> list[str]:
    """Return faults of contrast, structure and width, and parts that the browser has no name for."""
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    parts = [(one["role"]["value"], one.get("name", {}).get("value", "")) for one in tree if not one["ignored"]]
    assert {"button", "textbox", "spinbutton"} & {role for role, _ in parts}
    return page.evaluate(CHECKS) + [f"a {role} without a name" for role, name in parts if role in NAMED and not name]


def focused(page) -> str:
    return page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.id")


def tab_to(page, name: str, *, most: int = 60) -> None:
    """Press Tab until an element has the focus, and see that its focus shows."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if re.fullmatch(name, focused(page)):
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            return
    raise AssertionError(f"{name} was not reached in {most} steps")


def test_a_visit_by_the_keyboard_alone(visit, models):
    page, model = visit(), models[0]
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert focused(page) == "prompt"
    page.keyboard.type("a red circle")
    page.keyboard.press("Control+Enter")
    page.get_by_role("button", name="Edit image 1").wait_for()
    assert "4 images in" in page.locator("#status").inner_text()
    tab_to(page, "Edit image 1")
    page.keyboard.press("Enter")
    page.locator("#mask").wait_for()
    tab_to(page, "Mask of an image of 32 by 32 pixels, 0 % painted")
    for key in ("Space", "Control+z"):
        page.keyboard.press(key)
    assert focused(page) == "Mask of an image of 32 by 32 pixels, 0 % painted"
    for key in ("[", "[", "]", "Shift+ArrowRight", "Space", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    assert page.input_value("#brush-size") == "15"
    assert re.fullmatch(r"\d+ % of the image is painted\.", page.locator("#announcement").inner_text())
    tab_to(page, "Extend left", most=1)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowLeft")
    tab_to(page, "edit-prompt")
    page.keyboard.press("Control+Enter")
    page.locator("#history li").nth(1).wait_for()
    edited = model.works[-1]
    assert isinstance(edited, Edit) and edited.hidden is not None
    assert edited.images[0].size == (SIDE + 5, SIDE) and edited.hidden[:, :5].all()
    assert edited.hidden[SIDE // 2, 5 + SIDE // 2 + 4] and not edited.hidden[0, 5:].any()
    tab_to(page, "Details of image 1")
    page.keyboard.press("Enter")
    page.locator("#details").wait_for()
    page.keyboard.press("Escape")
    assert focused(page) == "Details of image 1"


def test_every_state_has_names_contrast_and_no_sideways_scrolling_on_a_phone_and_a_desktop(visit):
    page = visit(theme="dark", refused=True)
    found = {}

    def check(state: str) -> None:
        """Check a state as a phone in the dark, then as a desktop in the light."""
        for width, theme in ((360, "dark"), (1280, "light")):
            page.set_viewport_size({"width": width, "height": 740})
            page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
            found[state, theme] = faults(page)

    check("empty")
    page.fill("#prompt", "a very long prompt " * 8 + "w" * 80)
    page.click("#start")
    page.get_by_role("button", name="Edit image 1").click()
    assert "The prompt is long." in page.locator("#warnings").inner_text()
    page.locator("#mask").click(position={"x": 100, "y": 100})
    page.locator("#output_format").select_option("webp")
    page.fill("#top_p", "7")
    page.click("#start")
    page.locator("#top_p-error").wait_for()
    check("editor and error")
    page.locator("#history .run").first.click()
    page.get_by_role("button", name="Details of image 1").click()
    check("details")
    page.click("#close-details")
    page.click("#clear-history")
    check("question")
    assert not any(found.values()), found


def test_a_server_with_keys_asks_for_one_and_refuses_a_wrong_one(visit):
    with running(PaintedModel("painted", TRANSFORMER), keys=("sk-0123456789abcdef",)) as server:
        page = visit(url=server.url, refused=True, ready=False)
        for key in ("sk-wrong", "sk-0123456789abcdef"):
            page.get_by_text("expected a valid key").wait_for()
            assert not faults(page)
            page.fill("#key", key)
            page.get_by_role("button", name="Use this key").click()
        page.wait_for_selector("html[data-ready]")
        page.fill("#prompt", "a red circle")
        page.click("#start")
        page.get_by_role("button", name="Download image 1").wait_for()
