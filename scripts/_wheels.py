"""Guards over the built wheels: `python scripts/_wheels.py dist`.

Several distributions share one import namespace. It holds together only as long as no path is
shipped twice and only the core ships the `__init__.py` files of the shared packages.
"""

import re
import sys
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

CORE = "grelmicro_core"
LEAVES = {"grelmicro_testing": "grelmicro/testing/"}
SHARED = ("", "providers/", "cache/", "sync/", "resilience/")
RECIPE = "import pkgutil\n\n__path__ = pkgutil.extend_path(__path__, __name__)\n"
MACHINE_PATH = re.compile(rb"(^|[^A-Za-z0-9_.])/(work|farm|root|home)/")


class Wheel:
    """One built wheel."""

    def __init__(self, path: Path) -> None:
        self.name = path.name.partition("-")[0]
        with zipfile.ZipFile(path) as archive:
            self.files = {
                name: archive.read(name) for name in archive.namelist() if name[-1] != "/"
            }
        meta = next(name for name in self.files if name.endswith(".dist-info/METADATA"))
        self.meta = Parser().parsestr(self.files[meta].decode())

    def paths(self) -> list[str]:
        """What it puts into site-packages, its own metadata aside."""
        return [name for name in self.files if ".dist-info/" not in name]


def faults(wheels: list[Wheel]) -> Iterator[str]:
    """Everything that is wrong with a set of wheels, a line each."""
    if CORE not in {wheel.name for wheel in wheels} or len(wheels) < 2:
        yield f"expected {CORE} and at least one more wheel, found {[w.name for w in wheels]}"
        return
    yield from _shipped_twice(wheels)
    yield from _versions(wheels)
    for wheel in wheels:
        yield from _inits(wheel)
        yield from _typing(wheel)
        yield from _metadata(wheel)
        yield from _machine_paths(wheel)


def _shipped_twice(wheels: list[Wheel]) -> Iterator[str]:
    owner: dict[str, str] = {}
    for wheel in wheels:
        for path in wheel.paths():
            if (first := owner.setdefault(path, wheel.name)) != wheel.name:
                yield f"{path} is shipped by {first} and by {wheel.name}"


def _versions(wheels: list[Wheel]) -> Iterator[str]:
    versions = {wheel.name: wheel.meta["Version"] for wheel in wheels}
    if len(set(versions.values())) != 1:
        yield f"versions are not in lockstep: {versions}"


def _inits(wheel: Wheel) -> Iterator[str]:
    inits = {path for path in wheel.paths() if path.endswith("__init__.py")}
    shared = {f"grelmicro/{folder}__init__.py" for folder in SHARED}
    if wheel.name == CORE:
        yield from (f"{CORE} lacks {path}" for path in sorted(shared - inits))
        yield from (f"{CORE}: {path} is new to the house" for path in sorted(inits - shared))
        yield from (
            f"{path} does not begin with the namespace recipe"
            for path in sorted(shared & inits)
            if not _begins_with_recipe(wheel.files[path].decode())
        )
    elif leaf := LEAVES.get(wheel.name):
        yield from (
            f"{wheel.name}: {path} is outside of {leaf}"
            for path in wheel.paths()
            if not path.startswith(leaf)
        )
        if f"{leaf}__init__.py" not in inits:
            yield f"{wheel.name} lacks {leaf}__init__.py"
    else:
        yield from (f"{wheel.name} ships {path}" for path in sorted(inits))


def _begins_with_recipe(source: str) -> bool:
    """Whether the recipe is the first code after the docstring."""
    return bool(re.match(r'"""(?:[^"]|"(?!""))*"""\n\n' + re.escape(RECIPE), source))


def _typing(wheel: Wheel) -> Iterator[str]:
    found = [path for path in wheel.paths() if path.endswith("py.typed")]
    leaf = LEAVES.get(wheel.name)
    wanted = ["grelmicro/py.typed"] if wheel.name == CORE else [f"{leaf}py.typed"] if leaf else []
    if found != wanted:
        yield f"{wheel.name}: py.typed at {found}, expected at {wanted}"


def _metadata(wheel: Wheel) -> Iterator[str]:
    if "Private :: Do Not Upload" not in wheel.meta.get_all("Classifier", []):
        yield f"{wheel.name} lacks the classifier Private :: Do Not Upload"
    needs = wheel.meta.get_all("Requires-Dist", [])
    core = [need for need in needs if need.startswith("grelmicro-core")]
    if wheel.name != CORE and [sorted(need[14:].split(",")) for need in core] != [["<2", ">=1"]]:
        yield f"{wheel.name} requires {core or 'no core'}, expected grelmicro-core>=1,<2"


def _machine_paths(wheel: Wheel) -> Iterator[str]:
    for path, data in wheel.files.items():
        if MACHINE_PATH.search(data):
            yield f"{wheel.name}: {path} names a path of some machine"


def main(folder: str) -> int:
    """Print what is wrong; the exit status says whether anything is."""
    found = list(faults([Wheel(path) for path in sorted(Path(folder).glob("*.whl"))]))
    print("\n".join(found) or "wheels: all guards pass")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
