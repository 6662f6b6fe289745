"""A stranger's backend, made of the files that the guide shows, keeps what the guide says."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from documents import FENCES, ROOT

from grelmicro.testing.conformance import clauses

GUIDE = ROOT / "docs" / "guides" / "writing-a-backend.md"
PROGRAMS = {"pytest": [sys.executable, "-m", "pytest"], "python": [sys.executable]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of the guide, laid out as an installer would."""
    for fence in FENCES[GUIDE]:
        if fence.title:
            (tmp_path / fence.title).write_text(fence.source)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {to}" for name, to in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return tmp_path


def _run(command: str, folder: Path) -> tuple[int, str]:
    program, *rest = shlex.split(command)
    outcome = subprocess.run(
        [*PROGRAMS[program], *rest],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return outcome.returncode, outcome.stdout + outcome.stderr


def test_the_guide_ends_with_a_backend_that_keeps_its_promises(folder: Path) -> None:
    commands = "".join(fence.source for fence in FENCES[GUIDE] if fence.language == "sh")
    for command in commands.splitlines():
        if not command.startswith("pip "):
            code, printed = _run(command, folder)
            assert code == 0, printed
    text = GUIDE.read_text()
    code, printed = _run(
        "pytest --pyargs grelmicro.testing.conformance --provider shelf --conformance-badge b.json",
        folder,
    )
    assert f"`{(kept := re.findall(r'[0-9]+ passed', printed)[-1])}`" in text
    assert f"`{kept.split()[0]} promises kept`" in text
    assert f'"{kept.split()[0]} promises kept"' in (folder / "b.json").read_text()


def test_what_the_guide_quotes_is_what_the_kit_says(folder: Path) -> None:
    module = folder / "grelmicro_shelf.py"
    module.write_text(module.read_text().replace(" if monotonic() < end else None", ""))
    code, printed = _run(
        "pytest --pyargs grelmicro.testing.conformance --provider shelf -k cache.set.expires",
        folder,
    )
    assert code == 1
    said = " ".join(re.sub(r"^E", "", line).strip() for line in printed.splitlines())
    [quoted] = [fence.source for fence in FENCES[GUIDE] if fence.language == "none"]
    assert " ".join(quoted.split()) in " ".join(said.split())


def test_the_guide_names_clauses_that_there_are() -> None:
    named = set(re.findall(r"\bcache\.\w+\.\w+", GUIDE.read_text()))
    assert named <= {clause.id for clause in clauses("cache")}
    assert named
