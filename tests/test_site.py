"""What of the site is drawn, generated or listed is as its sources are now."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from test_house import MODULES, member_folders

from docs import gallery

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

SHOWN_ELSEWHERE = (
    "grelmicro.app",  # by `grelmicro`, which re-exports it
    "grelmicro.cache.serializers",  # by `grelmicro.cache`
    "grelmicro.cache.ttl",
    "grelmicro.testing",  # nothing is in it
    r"grelmicro\.testing\.conformance\..+",  # clauses, which the kit's reports show
    r"grelmicro\.testing\.servers\..+",  # by `grelmicro.testing.servers`
)


def test_the_gallery_shows_what_the_examples_are_now() -> None:
    page = (DOCS / "examples.md").read_text()
    assert f"from {gallery.fingerprint()}." in page, "run docs/gallery.py"


def test_every_example_is_in_the_gallery() -> None:
    folders = {path.name for path in (ROOT / "examples").iterdir() if list(path.rglob("*.py"))}
    assert folders == {entry.folder for entry in gallery.ENTRIES}


@pytest.mark.parametrize("name", ["architecture", "breaker", "lock", "stampede"])
def test_a_picture_is_what_its_script_draws(name: str, tmp_path: Path) -> None:
    for part in ("drawing.py", f"{name}.py", "stampede.json"):
        shutil.copy(DOCS / "pictures" / part, tmp_path)
    subprocess.run([sys.executable, "-W", "error", f"{name}.py"], cwd=tmp_path, check=True)
    drawn = (tmp_path / f"{name}.svg").read_text()
    assert drawn == (DOCS / "pictures" / f"{name}.svg").read_text(), "run docs/pictures/drawing.py"
    assert "\n\n" not in drawn, "a blank line would end it in the middle of a page"


def test_every_picture_is_looked_at() -> None:
    scripts = {path.stem for path in (DOCS / "pictures").glob("*.py")} - {"drawing"}
    shown = "".join(page.read_text() for page in DOCS.rglob("*.md"))
    assert {name for name in scripts if f'"docs/pictures/{name}.svg"' in shown} == scripts


def test_every_public_module_is_in_the_reference() -> None:
    pages = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    shown = re.findall(r"^::: (\S+)$", pages, re.MULTILINE)
    public = {name for name in MODULES if "._" not in name}
    missing = {
        name
        for name in public - set(shown)
        if not any(re.fullmatch(pattern, name) for pattern in SHOWN_ELSEWHERE)
    }
    assert missing == set()
    assert len(shown) == len(set(shown))


def test_the_navigation_has_every_page() -> None:
    listed = re.findall(r"\s(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert sorted(listed) == sorted(pages)


@pytest.mark.parametrize("member", member_folders(), ids=lambda member: member.name)
def test_a_distribution_lists_its_changes(member: Path) -> None:
    project = tomllib.loads((member / "pyproject.toml").read_text())["project"]
    changes = (member / "CHANGELOG.md").read_text()
    assert changes.startswith(f"# Changes of {project['name']}\n")
    versions = re.findall(r"^## (\S+)", changes, re.MULTILINE)
    assert versions[0] == project["version"]
    assert f"({member.relative_to(ROOT)}/CHANGELOG.md)" in (ROOT / "CHANGELOG.md").read_text()
    included = f'--8<-- "{member.relative_to(ROOT)}/CHANGELOG.md"\n'
    assert included in [page.read_text() for page in (DOCS / "changelog").glob("*.md")]
