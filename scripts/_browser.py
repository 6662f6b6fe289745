"""Looks at the built site in a real Chromium: every page as on a phone, navigation and search.

Nothing may fail to load, be logged as an error, come from another host, or be wider than the screen.
Screenshots are left in `.cache/screenshots/`.
"""

import functools
import http.server
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
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
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and tells nobody."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
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


def listen(page: Page, home: str, complaints: list[str]) -> None:
    """Gather what goes wrong on a page from now on."""

    def complain(text: str) -> None:
        complaints.append(f"{page.url.removeprefix(home)}: {text}")

    page.on("console", lambda said: said.type == "error" and complain(said.text))
    page.on("pageerror", lambda error: complain(str(error)))
    page.on("requestfailed", lambda request: complain(f"{request.url} failed: {request.failure}"))
    page.on(
        "request",
        lambda request: (
            request.url.startswith((home, "data:", "blob:"))
            or complain(f"asks {request.url} of another host")
        ),
    )


def on_a_phone(page: Page, home: str, complaints: list[str]) -> None:
    """Load every page, and compare its width to the screen's."""
    page.set_viewport_size(PHONE)
    for file in sorted(SITE.rglob("*.html")):
        place = f"/{file.relative_to(SITE).as_posix()}"
        page.goto(home + place.removesuffix("index.html"))
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > PHONE["width"]:
            complaints.append(f"{place} is {width} pixels wide on a screen of {PHONE['width']}")


def navigate(page: Page, home: str) -> None:
    """Go from the first page to another by the navigation."""
    page.set_viewport_size(DESK)
    page.goto(home)
    page.get_by_role("link", name="Getting started").first.click()
    expect(page.locator("h1")).to_contain_text("Getting started")


def search(page: Page, home: str) -> None:
    """Find a page by a word in it, and go there."""
    page.goto(home)
    page.keyboard.press("/")
    page.keyboard.type("fencing", delay=20)
    found = page.locator("a[href*='locks']").filter(has_text="encing")
    expect(found.first).to_be_visible()
    found.first.click()
    expect(page.locator("h1")).to_contain_text("Locks")


def look(page: Page, home: str) -> None:
    """Take pictures, light and dark, wide and narrow."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, place, size, scheme in (
        ("index-desk-light", "/", DESK, "light"),
        ("getting-started-phone-dark", "/getting-started/", PHONE, "dark"),
        ("locks-desk-dark", "/concepts/locks/", DESK, "dark"),
    ):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        page.set_viewport_size(size)
        page.goto(home + place)
        page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


def main() -> int:
    """Print what is wrong; the exit status says whether anything is."""
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if not chromium:
        print(f"no Chromium on PATH ({', '.join(NAMES)}): apt-get install -y chromium")
        return 1
    complaints: list[str] = []
    with served(SITE) as home, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(OPTIONS))
        page = browser.new_page()
        listen(page, home, complaints)
        on_a_phone(page, home, complaints)
        navigate(page, home)
        search(page, home)
        look(page, home)
        browser.close()
    print("\n".join(complaints) or "every page is sound in Chromium")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
