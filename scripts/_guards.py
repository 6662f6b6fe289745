"""What the built wheels promise: `python scripts/_guards.py wheels|imports|types`.

Several distributions share one import namespace. It holds together only as long as no path is
shipped twice, and only the core ships the `__init__.py` files of the folders they share.

`wheels` reads the archives in `dist/`; `imports` and `types` look at them as they are installed,
and run in the `wheels` environment. A guard with nothing to look at fails.
"""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
CORE = "grelmicro-core"
CORE_RANGE = SpecifierSet(">=1,<2")
PRIVATE = "Private :: Do Not Upload"
SHARED = ("", "/providers", "/cache", "/sync", "/resilience")
FOLDERS = frozenset(f"grelmicro{folder}" for folder in SHARED)
LEAVES = frozenset({"inject", "service", "starlette", "testing"})  # each owns grelmicro/<name>/
HEAD = ["import pkgutil", "", "__path__ = pkgutil.extend_path(__path__, __name__)"]
MACHINE_PATH = re.compile(rb"(?<![\w.~}-])/(?:home|root|work)/")


@dataclass(frozen=True)
class Wheel:
    """A built wheel: its metadata and its content by path."""

    metadata: Message
    content: Mapping[str, bytes]

    @property
    def name(self) -> str:
        """The distribution's name, as its metadata spells it."""
        return str(self.metadata["Name"])

    @property
    def leaf(self) -> str | None:
        """The folder that it owns as a whole, for a leaf package."""
        short = self.name.removeprefix("grelmicro-")
        return f"grelmicro/{short}" if short in LEAVES else None

    @property
    def paths(self) -> list[str]:
        """What it puts into site-packages, its own metadata aside."""
        return [path for path in self.content if ".dist-info/" not in path]

    @property
    def inits(self) -> set[str]:
        """The folders that it makes regular packages."""
        return {_folder(path) for path in self.paths if path.endswith("/__init__.py")}

    @property
    def folders(self) -> set[str]:
        """The folders in which it has modules."""
        return {_folder(path) for path in self.paths if path.endswith(".py")}

    @property
    def modules(self) -> list[str]:
        """Its modules, dotted."""
        paths = [PurePosixPath(path) for path in self.paths if path.endswith(".py")]
        return sorted(
            ".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths
        )


def read(path: Path) -> Wheel:
    """Read a wheel."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        content = {name: archive.read(name) for name in names}
    metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
    return Wheel(BytesParser().parsebytes(content[metadata]), content)


def faults(wheels: Sequence[Wheel], members: Iterable[str]) -> list[str]:
    """Everything that is wrong with the wheels of a workspace with these members, a line each."""
    found = [*incomplete_set(wheels, members), *shipped_twice(wheels), *out_of_lockstep(wheels)]
    rules: list[Callable[[Wheel], Iterator[str]]] = [
        misplaced_inits,
        misplaced_markers,
        wrong_heads,
        wrong_metadata,
        machine_paths_inside,
    ]
    return found + [f"{wheel.name}: {text}" for wheel in wheels for r in rules for text in r(wheel)]


def incomplete_set(wheels: Sequence[Wheel], members: Iterable[str]) -> Iterator[str]:
    """One wheel for each member, none else, none empty."""
    built, wanted = Counter(wheel.name for wheel in wheels), set(members)
    if CORE not in wanted:
        yield f"the workspace's members, {sorted(wanted)}, lack {CORE}"
    for name in sorted(wanted | set(built)):
        if built[name] != (name in wanted):
            yield f"{name}: {built[name]} wheels, expected {int(name in wanted)}"
    yield from (f"{wheel.name}: no modules inside" for wheel in wheels if not wheel.modules)


def shipped_twice(wheels: Iterable[Wheel]) -> Iterator[str]:
    """No path belongs to two wheels."""
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for wheel in wheels:
        for path in wheel.paths:
            owners[path].append(wheel.name)
    for path, names in owners.items():
        if len(names) > 1:
            yield f"{path}: shipped by {' and '.join(names)}"


def out_of_lockstep(wheels: Iterable[Wheel]) -> Iterator[str]:
    """All members have one version, within the range that they ask of the core."""
    versions = {wheel.name: str(wheel.metadata["Version"]) for wheel in wheels}
    if len(set(versions.values())) > 1:
        yield f"versions are not in lockstep: {versions}"
    for name, version in versions.items():
        if not CORE_RANGE.contains(version, prereleases=True):
            yield f"{name}: version {version} is not within {CORE_RANGE}"


def misplaced_inits(wheel: Wheel) -> Iterator[str]:
    """`__init__.py` stands where one wheel owns the folder, and nowhere else."""
    wanted, allowed = set[str](), FOLDERS
    if wheel.name == CORE:
        wanted = wheel.folders | FOLDERS
        allowed = FOLDERS | {folder for folder in wheel.folders if _private(folder)}
    elif leaf := wheel.leaf:
        wanted = wheel.folders | {leaf}
        allowed = frozenset(folder for folder in wanted if f"{folder}/".startswith(f"{leaf}/"))
    yield from (f"{folder}/__init__.py is missing" for folder in sorted(wanted - wheel.inits))
    yield from (
        f"modules in {folder}/ are not its own" for folder in sorted(wheel.folders - allowed)
    )
    if wheel.name != CORE and not wheel.leaf:
        yield from (f"{folder}/__init__.py belongs to the core" for folder in sorted(wheel.inits))


def misplaced_markers(wheel: Wheel) -> Iterator[str]:
    """Core's `py.typed` covers the merged package; a leaf has one of its own; a backend none."""
    found = {path for path in wheel.paths if path.endswith("py.typed")}
    owned = "grelmicro" if wheel.name == CORE else wheel.leaf
    wanted = {f"{owned}/py.typed"} if owned else set()
    yield from (f"{path} is missing" for path in sorted(wanted - found))
    yield from (f"{path} should not be there" for path in sorted(found - wanted))


def wrong_heads(wheel: Wheel) -> Iterator[str]:
    """The shared packages extend their path before anything else."""
    for folder in sorted(FOLDERS & wheel.inits if wheel.name == CORE else ()):
        path = f"{folder}/__init__.py"
        if not begins_with_head(wheel.content[path].decode()):
            yield f"{path} does not begin with {HEAD}"


def begins_with_head(source: str) -> bool:
    """Whether the first code after the docstring is the head, to the letter."""
    tree = ast.parse(source)
    body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    start = body[0].lineno - 1 if body else 0
    return source.splitlines()[start : start + len(HEAD)] == HEAD


def wrong_metadata(wheel: Wheel) -> Iterator[str]:
    """Nobody uploads it by mistake, and it asks for our core, not for the other one of its name."""
    if PRIVATE not in wheel.metadata.get_all("Classifier", []):
        yield f"lacks the classifier {PRIVATE!r}"
    needs = [Requirement(text) for text in wheel.metadata.get_all("Requires-Dist", [])]
    ours = [need for need in needs if need.name.startswith("grelmicro")]
    always = {need.name for need in ours if need.marker is None}
    if wheel.name == CORE:
        yield from (f"the core requires {need}" for need in ours)
    elif CORE not in always:
        yield f"does not require {CORE}"
    yield from (f"requires {n}, not {CORE_RANGE}" for n in ours if n.specifier != CORE_RANGE)


def machine_paths_inside(wheel: Wheel) -> Iterator[str]:
    """A wheel knows nothing of the machine that built it."""
    return machine_paths(wheel.content.items())


def machine_paths(files: Iterable[tuple[str, bytes]]) -> Iterator[str]:
    """Each file, given by path and content, in which a machine's path stands."""
    for path, content in files:
        if match := MACHINE_PATH.search(content):
            line = content.count(b"\n", 0, match.start()) + 1
            yield f"{path}:{line} names a path of some machine"


def project_files(root: Path) -> list[tuple[str, bytes]]:
    """What git tracks, or would: path and content. Nothing where there is no repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=root, check=False, stdout=subprocess.PIPE)  # noqa: S603 - fixed words
    names = sorted(set(filter(None, done.stdout.decode().split("\0"))))
    return [(name, (root / name).read_bytes()) for name in names if (root / name).is_file()]


def member_names(root: Path) -> list[str]:
    """The names of the workspace's members."""
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["envs"]
    folders = patterns["default"]["workspace"]["members"]
    files = [file for folder in folders for file in root.glob(f"{folder}/pyproject.toml")]
    return [tomllib.loads(file.read_text())["project"]["name"] for file in files]


def failed_imports(modules: Iterable[str], prefix: Path) -> Iterator[str]:
    """Import each module; each has to come from the environment at `prefix`."""
    for name in modules:
        try:
            file = importlib.import_module(name).__file__
        except Exception as error:  # whatever an import raises, it is the finding
            yield f"import {name}: {type(error).__name__}: {error}"
            continue
        if not Path(str(file)).is_relative_to(prefix):
            yield f"import {name}: comes from {file}, not from {prefix}"


def incomplete_types(report: Mapping[str, Any], modules: Iterable[str]) -> Iterator[str]:
    """Read the report of `pyright --verifytypes --outputjson`; `modules` have to be part of it."""
    yield from (item["message"] for item in report["generalDiagnostics"])
    types = report["typeCompleteness"]
    seen = {module["name"] for module in types["modules"]}
    yield from (f"{name}: pyright does not see it" for name in modules if name not in seen)
    for symbol in types["symbols"]:
        known = symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"]
        for item in () if known else symbol["diagnostics"]:
            yield f"{symbol['name']}: {item['message']}"
    if types["completenessScore"] != 1:
        yield f"types are {types['completenessScore']:.1%} complete, expected 100 %"


def _folder(path: str) -> str:
    return str(PurePosixPath(path).parent)


def _private(name: str) -> bool:
    return any(part.startswith("_") for part in re.split(r"[./]", name))


def _read_all(root: Path) -> list[Wheel]:
    return [read(path) for path in sorted((root / "dist").glob("*.whl"))]


def _wheels() -> list[str]:
    files = project_files(ROOT)
    found = faults(_read_all(ROOT), member_names(ROOT))
    return [*found, *machine_paths(files), *([] if files else ["git lists no files"])]


def _imports() -> list[str]:
    modules = [module for wheel in _read_all(ROOT) for module in wheel.modules]
    return [*failed_imports(modules, Path(sys.prefix)), *([] if modules else ["no modules"])]


def _types() -> list[str]:
    modules = [m for wheel in _read_all(ROOT) for m in wheel.modules if not _private(m)]
    command = ["pyright", "--verifytypes", "grelmicro", "--ignoreexternal", "--outputjson"]
    done = subprocess.run(command, cwd=ROOT / "dist", stdout=subprocess.PIPE, check=False)  # noqa: S603 - fixed words
    found = [
        *incomplete_types(json.loads(done.stdout), modules),
        *([] if modules else ["no modules"]),
    ]
    return found or ([f"pyright ended with {done.returncode}"] if done.returncode else [])


def main(name: str) -> int:
    """Print what is wrong; the exit status says whether anything is."""
    found = {"wheels": _wheels, "imports": _imports, "types": _types}[name]()
    print("\n".join(found) or f"{name}: all guards pass")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
