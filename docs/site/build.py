"""Builds the site into `site/`, and follows every link in it; anything to complain of is a failure.

zensical's strict mode knows pages, anchors and references in Markdown. What it lets pass is found
here: complaints about docstrings, pictures and raw HTML, and pages that no navigation leads to.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import llms
import view

ROOT = Path(__file__).parents[2]
SITE = ROOT / "site"
SAID = re.compile(r"Build started|No issues found|Build finished in [\d.]+s|")
COLOURS = re.compile(r"\x1b\[[\d;]*m")
DOORS = {"index.html", "404.html"}


class Page(HTMLParser):
    """What a page refers to, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.references: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take in one element."""
        for name, value in attrs:
            if name in {"href", "src"} and value and tag != "base":
                self.references.add(value)
            elif name in {"id", "name"} and value:
                self.anchors.add(value)


def broken(site: Path) -> Iterator[str]:
    """Each reference to what is not there or on another host, and each page that is not linked."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    reached = set()
    for path, page in pages.items():
        for reference in sorted(page.references):
            target, anchor = _target(site, path, reference)
            if target is None:
                continue
            reached |= {target} - {path}
            if not target.is_file():
                yield f"{path.relative_to(site)}: {reference} leads nowhere"
            elif anchor and target in pages and anchor not in pages[target].anchors:
                yield f"{path.relative_to(site)}: {reference} has no such anchor"
    for path in pages.keys() - reached:
        if path.name not in DOORS or path.parent != site:
            yield f"{path.relative_to(site)}: no page leads to it"


def _target(site: Path, path: Path, reference: str) -> tuple[Path | None, str]:
    address, anchor = urldefrag(reference)
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None, ""  # a link for people; browser.py sees what is fetched
    place = unquote(parts.path)
    found = path
    if place:
        found = site / place.lstrip("/") if place.startswith("/") else path.parent / place
    found = found.resolve()
    return (found / "index.html" if found.is_dir() else found), unquote(anchor)


def build() -> Iterator[str]:
    """Make the site; whatever there is to complain of."""
    view.link(ROOT / ".view")
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    told = subprocess.PIPE
    done = subprocess.run(  # noqa: S603 - fixed words
        command, cwd=ROOT, stdout=told, stderr=subprocess.STDOUT, text=True, check=False
    )
    said = COLOURS.sub("", done.stdout).partition("Traceback (most")[0]
    if done.returncode or not all(SAID.fullmatch(line) for line in said.splitlines()):
        yield said
    else:
        llms.write(ROOT / "mkdocs.yml", ROOT / "docs", SITE)
        yield from broken(SITE)


if __name__ == "__main__":
    complaints = list(build())
    print("\n".join(complaints) or f"the site is in {SITE.name}/")
    sys.exit(bool(complaints))
