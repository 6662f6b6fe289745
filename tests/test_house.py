"""What holds for every member's sources: public names, imports, one merged namespace."""

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"asyncpg", "orjson", "pydantic", "pydantic_settings", "redis"}

# Imports each module as if it were the first of ours; only what is not ours stays loaded.
IMPORT_EACH = """
import importlib, sys, traceback
failed = 0
for name in sys.argv[1:]:
    for loaded in [key for key in sys.modules if key.partition(".")[0] == "grelmicro"]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except BaseException:
        failed = 1
        print(f"import {name}", traceback.format_exc(), sep="\\n")
sys.exit(failed)
"""


def member_folders() -> list[Path]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["hatch"]["envs"]["default"]["workspace"]["members"]
    return sorted(folder for pattern in patterns for folder in ROOT.glob(pattern))


def module_files(member: Path) -> dict[str, Path]:
    files = sorted((member / "src").rglob("*.py"))
    dotted = [".".join(f.relative_to(member / "src").with_suffix("").parts) for f in files]
    return {n.removesuffix(".__init__"): f for n, f in zip(dotted, files, strict=True)}


MODULES = {name: file for member in member_folders() for name, file in module_files(member).items()}
PACKAGES = [n for n, file in MODULES.items() if file.name == "__init__.py" and "._" not in n]


def public_names(source: str) -> set[str]:
    """Names that a module defines, or re-exports from our own modules, at its top level."""
    return {name for node in ast.parse(source).body for name in _bound(node) if name[0] != "_"}


def _bound(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom):
        if node.level or str(node.module).partition(".")[0] == "grelmicro":
            yield from (alias.asname or alias.name for alias in node.names)
    elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-W", "error", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_there_are_members_to_look_at() -> None:
    assert {"grelmicro", "grelmicro.cache.redis", "grelmicro.testing"} <= MODULES.keys()
    assert len(PACKAGES) >= 5


def test_public_names_are_found_however_they_are_bound() -> None:
    source = """
import os
from pathlib import Path
from grelmicro.app import Grelmicro as App, _private
from .near import thing
A = B = 1
C: int = 2
def function(): ...
async def coroutine(): ...
class Class: ...
_hidden = 3
"""
    expected = {"App", "thing", "A", "B", "C", "function", "coroutine", "Class"}
    assert public_names(source) == expected


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_what_is_there(package: str) -> None:
    module = importlib.import_module(package)
    declared = list(getattr(module, "__all__", []))
    assert len(declared) == len(set(declared)), "a name stands twice in __all__"
    assert [name for name in declared if not hasattr(module, name)] == []
    assert public_names(MODULES[package].read_text()) - set(declared) == set()


def test_every_module_can_be_the_first_to_be_imported() -> None:
    done = run_python("-c", IMPORT_EACH, *MODULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_module_that_does_not_import_is_noticed() -> None:
    done = run_python("-c", IMPORT_EACH, "grelmicro", "grelmicro.no_such_module")
    assert done.returncode == 1
    assert "import grelmicro.no_such_module" in done.stdout


def test_the_front_door_loads_nothing_heavy() -> None:
    done = run_python("-c", "import grelmicro, sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "grelmicro.app" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("folder", ["", "cache", "providers", "sync", "resilience"])
def test_the_namespace_merges_the_members(folder: str) -> None:
    package = importlib.import_module(f"grelmicro.{folder}".rstrip("."))
    merged = {Path(path).resolve() for path in package.__path__}
    there = {member / "src" / "grelmicro" / folder for member in member_folders()}
    assert {path.resolve() for path in there if path.is_dir()} <= merged
