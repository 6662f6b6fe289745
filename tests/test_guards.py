"""Each guard over the wheels reports what it is for, on wheels made up to break one rule."""

import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import _guards

HEAD = '"""A package."""\n\nimport pkgutil\n\n__path__ = pkgutil.extend_path(__path__, __name__)\n'
MEMBERS = ["grelmicro-core", "grelmicro-redis", "grelmicro-testing"]
CORE_INIT = "grelmicro/__init__.py"
HOME = f"/{'home'}/somebody/project"  # put together, so that this file passes the guard itself


class Draft:
    """A wheel to be: change it, then `build` it."""

    def __init__(self, name: str, files: dict[str, str], requires: list[str]) -> None:
        self.name = name
        self.version = "1.0.0"
        self.files = files
        self.requires = requires
        self.classifiers = [_guards.PRIVATE]

    def metadata(self) -> str:
        lines = ["Metadata-Version: 2.4", f"Name: {self.name}", f"Version: {self.version}"]
        lines += [f"Classifier: {classifier}" for classifier in self.classifiers]
        lines += [f"Requires-Dist: {requirement}" for requirement in self.requires]
        return "\n".join([*lines, "", "The readme."])

    def build(self, folder: Path) -> Path:
        stem = f"{self.name.replace('-', '_')}-{self.version}"
        path = folder / f"{stem}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in self.files.items():
                archive.writestr(name, text)
            archive.writestr(f"{stem}.dist-info/METADATA", self.metadata())
        return path


class Workspace:
    """Three wheels that keep every rule, until a test changes one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shared = {f"{name}/__init__.py": HEAD for name in _guards.FOLDERS}
        marker = {"grelmicro/py.typed": ""}
        self.core = Draft("grelmicro-core", shared | marker, ["pydantic-settings>=2.4"])
        backend = {"grelmicro/cache/redis.py": "", "grelmicro/providers/redis.py": ""}
        self.redis = Draft("grelmicro-redis", backend, ["grelmicro-core<2,>=1", "redis>=5.3"])
        leaf = {f"grelmicro/testing/{name}": "" for name in ("__init__.py", "kit.py", "py.typed")}
        self.testing = Draft("grelmicro-testing", leaf, ["grelmicro-core<2,>=1"])
        self.drafts = [self.core, self.redis, self.testing]

    def faults(self) -> list[str]:
        wheels = [_guards.read(draft.build(self.folder)) for draft in self.drafts]
        return _guards.faults(wheels, MEMBERS)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_wheels_that_keep_every_rule_pass(workspace: Workspace) -> None:
    assert workspace.faults() == []


def test_the_core_may_have_private_packages_and_modules_anywhere(workspace: Workspace) -> None:
    workspace.core.files |= {"grelmicro/_fast/__init__.py": "", "grelmicro/_fast/wire.py": ""}
    workspace.core.files |= {"grelmicro/app.py": "", "grelmicro/cache/_codec.py": ""}
    assert workspace.faults() == []


def test_a_leaf_may_have_packages_inside(workspace: Workspace) -> None:
    inside = "grelmicro/testing/servers"
    workspace.testing.files |= {f"{inside}/__init__.py": "", f"{inside}/redis.py": ""}
    assert workspace.faults() == []


def test_an_optional_requirement_may_have_a_range_of_its_own(workspace: Workspace) -> None:
    workspace.core.requires.append('orjson>=3.10; extra == "fast"')
    assert workspace.faults() == []


def add(draft: str, path: str, text: str = "") -> Callable[[Workspace], None]:
    return lambda workspace: getattr(workspace, draft).files.__setitem__(path, text)


def drop(draft: str, path: str) -> Callable[[Workspace], None]:
    return lambda workspace: getattr(workspace, draft).files.__delitem__(path)


def put(draft: str, field: str, value: object) -> Callable[[Workspace], None]:
    return lambda workspace: setattr(getattr(workspace, draft), field, value)


BROKEN = {
    "path twice": (
        add("redis", "grelmicro/providers/memory.py"),
        add("core", "grelmicro/providers/memory.py"),
        "grelmicro/providers/memory.py: shipped by grelmicro-core and grelmicro-redis",
    ),
    "core without an init": (
        drop("core", "grelmicro/sync/__init__.py"),
        "grelmicro-core: grelmicro/sync/__init__.py is missing",
    ),
    "core with a new public folder": (
        add("core", "grelmicro/queue/__init__.py"),
        "grelmicro-core: modules in grelmicro/queue/ are not its own",
    ),
    "core with a folder without init": (
        add("core", "grelmicro/_fast/wire.py"),
        "grelmicro-core: grelmicro/_fast/__init__.py is missing",
    ),
    "backend with an init in a folder of its own": (
        add("redis", "grelmicro/providers/_redis/__init__.py"),
        "grelmicro-redis: modules in grelmicro/providers/_redis/ are not its own",
        "grelmicro-redis: grelmicro/providers/_redis/__init__.py belongs to the core",
    ),
    "backend with an init of the core": (
        drop("core", "grelmicro/cache/__init__.py"),
        add("redis", "grelmicro/cache/__init__.py", HEAD),
        "grelmicro-core: grelmicro/cache/__init__.py is missing",
        "grelmicro-redis: grelmicro/cache/__init__.py belongs to the core",
    ),
    "backend in a folder that nobody owns": (
        add("redis", "grelmicro/queue/redis.py"),
        "grelmicro-redis: modules in grelmicro/queue/ are not its own",
    ),
    "tests in a wheel": (
        add("redis", "tests/test_redis.py"),
        "grelmicro-redis: modules in tests/ are not its own",
    ),
    "leaf without an init": (
        drop("testing", "grelmicro/testing/__init__.py"),
        "grelmicro-testing: grelmicro/testing/__init__.py is missing",
    ),
    "leaf with a folder without init": (
        add("testing", "grelmicro/testing/servers/redis.py"),
        "grelmicro-testing: grelmicro/testing/servers/__init__.py is missing",
    ),
    "leaf outside of its folder": (
        add("testing", "grelmicro/fixtures.py"),
        "grelmicro-testing: grelmicro/__init__.py is missing",
        "grelmicro-testing: modules in grelmicro/ are not its own",
    ),
    "core without its marker": (
        drop("core", "grelmicro/py.typed"),
        "grelmicro-core: grelmicro/py.typed is missing",
    ),
    "leaf without its marker": (
        drop("testing", "grelmicro/testing/py.typed"),
        "grelmicro-testing: grelmicro/testing/py.typed is missing",
    ),
    "backend with a marker": (
        add("redis", "grelmicro/cache/py.typed"),
        "grelmicro-redis: grelmicro/cache/py.typed should not be there",
    ),
    "no head": (
        add("core", CORE_INIT, '"""A package."""\n\nfrom grelmicro.app import Grelmicro\n'),
        f"grelmicro-core: {CORE_INIT} does not begin with {_guards.HEAD}",
    ),
    "no private classifier": (
        put("redis", "classifiers", ["Typing :: Typed"]),
        "grelmicro-redis: lacks the classifier 'Private :: Do Not Upload'",
    ),
    "a version of its own": (
        put("redis", "version", "1.0.1"),
        "versions are not in lockstep: {'grelmicro-core': '1.0.0', 'grelmicro-redis': '1.0.1', "
        "'grelmicro-testing': '1.0.0'}",
    ),
    "any core": (
        put("redis", "requires", ["grelmicro-core>=1"]),
        "grelmicro-redis: requires grelmicro-core>=1, not <2,>=1",
    ),
    "no core": (
        put("testing", "requires", ["pytest"]),
        "grelmicro-testing: does not require grelmicro-core",
    ),
    "core only as an extra": (
        put("testing", "requires", ['grelmicro-core<2,>=1; extra == "all"']),
        "grelmicro-testing: does not require grelmicro-core",
    ),
    "core that knows a member": (
        put("core", "requires", ["grelmicro-redis<2,>=1"]),
        "grelmicro-core: the core requires grelmicro-redis<2,>=1",
    ),
    "a machine's path": (
        add("redis", "grelmicro/cache/redis.py", f"1\n\n# see {HOME}/x\n"),
        "grelmicro-redis: grelmicro/cache/redis.py:3 names a path of some machine",
    ),
    "nothing inside": (
        put("redis", "files", {}),
        "grelmicro-redis: no modules inside",
    ),
    "another distribution": (
        put("redis", "name", "grelmicro-valkey"),
        "grelmicro-redis: 0 wheels, expected 1",
        "grelmicro-valkey: 1 wheels, expected 0",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_reported(workspace: Workspace, name: str) -> None:
    changes = [part for part in BROKEN[name] if callable(part)]
    for change in changes:
        change(workspace)
    found = workspace.faults()
    assert sorted(found) == sorted(part for part in BROKEN[name] if isinstance(part, str))


def test_versions_beyond_the_range_are_reported(workspace: Workspace) -> None:
    for draft in workspace.drafts:
        draft.version = "2.0.0"
    assert workspace.faults() == [f"{n}: version 2.0.0 is not within <2,>=1" for n in MEMBERS]


def test_no_wheels_at_all_are_reported() -> None:
    assert _guards.faults([], MEMBERS) == [f"{name}: 0 wheels, expected 1" for name in MEMBERS]


def test_a_workspace_without_members_is_reported() -> None:
    assert _guards.faults([], []) == ["the workspace's members, [], lack grelmicro-core"]


def test_a_stale_wheel_beside_the_new_one_is_reported(workspace: Workspace) -> None:
    workspace.drafts.append(workspace.redis)
    assert "grelmicro-redis: 2 wheels, expected 1" in workspace.faults()


@pytest.mark.parametrize(
    "source",
    [
        HEAD,
        HEAD.partition("\n\n")[2],  # no docstring
        HEAD + "\nfrom grelmicro.app import Grelmicro\n",
        '"""Two\n\nparagraphs, and a quoted \\"\\"\\"."""\n' + HEAD.partition("\n\n")[2],
    ],
)
def test_heads_that_are_right(source: str) -> None:
    assert _guards.begins_with_head(source)


@pytest.mark.parametrize(
    "source",
    [
        "",
        '"""A docstring."""\n',
        "import os\n\n" + HEAD.partition("\n\n")[2],
        "from grelmicro.app import Grelmicro\n" + HEAD,
        HEAD.replace("\n\n__path__", "\n__path__"),
        HEAD.replace("import pkgutil", "from pkgutil import extend_path").replace("pkgutil.e", "e"),
        HEAD.replace("__path__ =", "__path__: list[str] ="),
        HEAD.replace("__path__ =", "__path__  ="),
        HEAD.replace('."""', ".") + '"""',  # inside the docstring
    ],
)
def test_heads_that_are_not(source: str) -> None:
    assert not _guards.begins_with_head(source)


@pytest.mark.parametrize(
    "text",
    [HOME, f'"{HOME}"', f"file://{HOME}", f"PATH=/bin:{HOME}", f"<{HOME}>"],
)
def test_machine_paths_are_seen(text: str) -> None:
    assert list(_guards.machine_paths([("a", text.encode())]))


@pytest.mark.parametrize(
    "text", [f"src{HOME}", f"~{HOME}", f"${{x}}{HOME}", f"..{HOME}", "/homes/", "/usr/bin/env"]
)
def test_other_paths_are_not(text: str) -> None:
    assert not list(_guards.machine_paths([("a", text.encode())]))


def test_project_files_are_what_git_tracks_or_would(tmp_path: Path) -> None:
    for name in (".gitignore", "tracked", "new", "ignored", "gone"):
        (tmp_path / name).write_text("ignored" if name == ".gitignore" else name)
    for words in (["init", "-q"], ["add", "tracked", "gone"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    (tmp_path / "gone").unlink()
    files = dict(_guards.project_files(tmp_path))
    assert sorted(files) == [".gitignore", "new", "tracked"]
    assert files["new"] == b"new"


def test_members_are_those_of_the_workspace() -> None:
    assert set(_guards.member_names(_guards.ROOT)) >= set(MEMBERS)
