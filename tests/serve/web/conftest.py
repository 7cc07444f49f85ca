"""A browser, a server, and visits of the page that end with a check of what the browser complained of."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.running_server import Running, running
from tests.serve.web.painted_model import DIFFUSION, TRANSFORMER, PaintedModel

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Start the system's Chromium, or skip with what is missing.

    While it runs, no other module of this thread can run an event loop: playwright's counts as the running one.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip(f"the page's tests need Chromium: found none of {', '.join(NAMES)}")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=executable)
        yield started
        started.close()
    asyncio._set_running_loop(None)  # playwright leaves its closed loop as the running one of this thread


@pytest.fixture(scope="package")
def models() -> list[PaintedModel]:
    return [PaintedModel("painted", TRANSFORMER), PaintedModel("painted-unclip", DIFFUSION)]


@pytest.fixture(scope="package")
def server(models: list[PaintedModel]) -> Iterator[Running]:
    with running(*models) as started:
        yield started


@pytest.fixture
def visit(browser: "Browser", server: Running) -> Iterator[Callable[..., "Page"]]:
    """Return a function that opens the page. The test fails if a page logs an error or asks another host."""
    contexts, complaints = [], []

    def open_page(
        *,
        width: int = 1280,
        height: int = 900,
        url: str = server.url,
        theme: str = "light",
        refused: bool = False,
        ready: bool = True,
    ) -> "Page":
        """Open the page, and wait until it is ``ready``. ``refused``: errors of the server are expected in its log."""
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()

        def log(message: "ConsoleMessage") -> None:
            expected = refused and "the server responded with a status of 4" in message.text
            if message.type in ("error", "warning") and not expected:
                complaints.append(message.text)

        def request(sent: "Request") -> None:
            if not sent.url.startswith((f"{url}/", "blob:")):
                complaints.append(sent.url)

        page.on("console", log)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", request)
        page.goto(url)
        if ready:
            page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints
