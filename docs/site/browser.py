"""Looks at the built site in a real Chromium: every page as on a phone, navigation and search.

Nothing may fail to load, be logged as an error, come from another host, or be wider than the
screen. Screenshots are left in `.cache/screenshots/`.
"""

import functools
import http.server
import shutil
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import (Browser, ConsoleMessage, Page, Request, Response, ViewportSize, expect, sync_playwright)

ROOT = Path(__file__).parents[2]
SITE = ROOT / "site"
PICTURES = ROOT / ".cache" / "screenshots"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LEFT = "net::ERR_ABORTED"  # the page was left before it came
PHONE = ViewportSize(width=390, height=844)
DESK = ViewportSize(width=1280, height=900)
LOOKS: tuple[tuple[str, str, ViewportSize, Literal["light", "dark"]], ...] = (
    ("index-desk-light", "/", DESK, "light"),
    ("getting-started-phone-dark", "/getting-started/", PHONE, "dark"),
    ("locks-desk-dark", "/concepts/locks/", DESK, "dark"),
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and tells nobody."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Generator[str]:
    """Serve it on a free port of this machine."""
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Ear:
    """Gathers what goes wrong on a page.

    Args:
        page: The page.
        home: The only host that it may ask.
    """

    def __init__(self, page: Page, home: str) -> None:
        self.complaints: list[str] = []
        self._page = page
        self._home = home
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complain(str(error)))
        page.on("request", self._asked)
        page.on("requestfailed", self._failed)
        page.on("response", self._answered)

    def complain(self, text: str) -> None:
        """Note it down, with where it happened."""
        self.complaints.append(f"{self._page.url.removeprefix(self._home)}: {text}")

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complain(message.text)

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self._home, "data:", "blob:")):
            self.complain(f"{request.url} is on another host")

    def _failed(self, request: Request) -> None:
        if request.failure != LEFT:
            self.complain(f"{request.url} failed: {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self.complain(f"{response.url} is answered with {response.status}")


def on_a_phone(browser: Browser, home: str) -> list[str]:
    """Load every page, and compare its width to the screen's; what went wrong."""
    with browser.new_context(viewport=PHONE, is_mobile=True) as context:
        page = context.new_page()
        ear = Ear(page, home)
        for file in sorted(SITE.rglob("*.html")):
            place = file.relative_to(SITE).as_posix().removesuffix("index.html")
            page.goto(f"{home}/{place}")
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > PHONE["width"]:
                ear.complain(f"it is {width} pixels wide on a screen of {PHONE['width']}")
    return ear.complaints


def at_a_desk(browser: Browser, home: str) -> list[str]:
    """Navigate and search; what went wrong."""
    with browser.new_context(viewport=DESK) as context:
        page = context.new_page()
        ear = Ear(page, home)
        navigate(page, home)
        search(page, home)
    return ear.complaints


def navigate(page: Page, home: str) -> None:
    """Go from the first page to another by the navigation."""
    page.goto(home)
    page.get_by_role("link", name="Getting started").first.click()
    expect(page.locator("h1")).to_contain_text("Getting started")


def search(page: Page, home: str) -> None:
    """Find a page by a word in it, and go there."""
    page.goto(home)
    page.keyboard.press("/")
    expect(page.locator("input:focus")).to_be_visible()
    page.keyboard.type("fencing")
    found = page.locator("a[href*='locks']").filter(has_text="Fencing")
    expect(found.first).to_be_visible()
    found.first.click()
    expect(page.locator("h1")).to_contain_text("Locks")


def look(browser: Browser, home: str) -> None:
    """Take pictures, light and dark, wide and narrow."""
    for name, place, size, scheme in LOOKS:
        with browser.new_context(
            color_scheme=scheme, viewport=size, is_mobile=size is PHONE
        ) as context:
            page = context.new_page()
            page.goto(home + place)
            page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


def main() -> int:
    """Print what is wrong; the exit status says whether anything is."""
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if not chromium:
        print(f"no Chromium on PATH ({', '.join(NAMES)}): apt-get install -y chromium")
        return 1
    with served(SITE) as home, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(OPTIONS))
        complaints = on_a_phone(browser, home) + at_a_desk(browser, home)
        look(browser, home)
        browser.close()
    print("\n".join(complaints) or "every page is sound in Chromium")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
