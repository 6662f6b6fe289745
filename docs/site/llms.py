"""Writes `llms.txt`, the pages with a line about each, and `llms-full.txt`, their whole text."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

SUMMARY = (
    "A toolkit for Python 3.11+ microservices: caching, locks, rate limits, circuit breakers and "
    "injection, over memory, Redis or PostgreSQL, chosen by one variable."
)
SNIPPET = re.compile(r'^--8<-- "([^":]+)(?::(\w+))?"$', re.MULTILINE)


def write(config: Path, docs: Path, site: Path) -> None:
    """Write both files into the site."""
    # A loader that takes no tags: zensical's own are not needed here.
    nav = yaml.safe_load(config.read_text())["nav"]
    sections: dict[str, list[str]] = {"": [f"# grelmicro\n\n> {SUMMARY}\n"]}
    full = []
    for section, name in _pages(nav, ""):
        text = _included((docs / name).read_text(), config.parent)
        line = f"- [{_title(text)}]({_address(name)}): {_first_sentence(text)}"
        sections.setdefault(section, ["", f"## {section}\n"]).append(line)
        full.append(text)
    lines = (line for section in sections.values() for line in section)
    (site / "llms.txt").write_text("\n".join(lines) + "\n")
    (site / "llms-full.txt").write_text("\n\n".join(full))


def _pages(nav: list[Any], section: str) -> Iterator[tuple[str, str]]:
    for entry in nav:
        if isinstance(entry, str):
            yield section, entry
            continue
        for title, below in entry.items():
            if isinstance(below, str):
                yield section, below
            else:
                yield from _pages(below, section or title)


def _included(text: str, root: Path) -> str:
    def read(match: re.Match[str]) -> str:
        found = (root / match[1]).read_text()
        if match[1].endswith(".svg"):
            return ""
        if match[2]:
            found = found.partition(f"[start:{match[2]}] -->")[2].partition("<!-- --8<--")[0]
        return found

    return SNIPPET.sub(read, text)


def _title(text: str) -> str:
    return text.partition("# ")[2].partition("\n")[0]


def _first_sentence(text: str) -> str:
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n")[1:])
    prose = next((part for part in paragraphs if part[:1].isalpha() or part[:1] == "`"), "")
    return re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", re.split(r"(?<=\.) ", prose)[0])


def _address(name: str) -> str:
    place = name.removesuffix(".md").removesuffix("index").rstrip("/")
    return f"{place}/" if place else "./"
