"""The image in docs/serving.md: the page on a desktop after a generation, and on a phone while a hole is painted.

python docs/page_image.py http://127.0.0.1:8000/ docs/page.png        (needs playwright and Chromium)
"""

import io
import shutil
import sys

from PIL import Image
from playwright.sync_api import Page, sync_playwright

COLOURS = 128


def draw(page: Page, address: str) -> None:
    """Open the page and draw a prompt."""
    page.goto(address)
    page.fill("#prompt", "a red circle above a blue square")
    for name, value in {"candidates": "16", "seed": "7"}.items():
        page.locator(f"#{name}").evaluate("(field, value) => field.value = value", value)
    page.click("#start")
    page.get_by_role("button", name="Edit image 1").wait_for()


def paint(page: Page) -> None:
    """Paint over the lower part of the first image, and extend its right side."""
    page.get_by_role("button", name="Edit image 1").click()
    page.locator("#mask").hover(position={"x": 60, "y": 170})
    page.mouse.down()
    page.locator("#mask").hover(position={"x": 190, "y": 190})
    page.mouse.up()
    for _ in range(12):
        page.get_by_role("slider", name="Extend right").press("ArrowRight")
    page.fill("#edit-prompt", "a green ring")
    page.locator("#status").evaluate("status => status.scrollIntoView()")


def main(address: str, out: str) -> None:
    """Take both screenshots and write them next to each other."""
    taken = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        for width, theme in ((1120, "light"), (360, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 760}, color_scheme=theme)
            draw(page, address)
            if width == 360:
                paint(page)
            taken.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        browser.close()
    sheet = Image.new("RGB", (sum(one.width for one in taken) + 24, 760), "white")
    sheet.paste(taken[0], (0, 0))
    sheet.paste(taken[1], (taken[0].width + 24, 0))
    sheet.quantize(COLOURS).save(out, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
