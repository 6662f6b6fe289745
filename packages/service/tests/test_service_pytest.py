"""The fixtures and the marker, in runs of pytest of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGINS = """
from grelmicro.service import context, plugin

async def prepare(teardown: plugin.Teardown):
    context.add("foobar")
    teardown.add(lambda: print("undone"))

async def runs():
    raise AssertionError("nothing is run in tests")

async def with_tasks():
    yield runs()
"""

TESTS = """
import asyncio
import pytest

MARK = {mark}

async def prepare():
    from grelmicro.service import context

    context.add("foobar")


@pytest.mark.grelmicro_plugins("plugins", "plugins:with_tasks")
@MARK
async def test_wrapped_stage_context():
    from grelmicro.service import context, plugin

    assert context.get(str) == "foobar"
    assert context.get(plugin.Cancel)


@pytest.mark.grelmicro_plugins()
@MARK
async def test_wrapped_stage_context_load(grelmicro_load):
    from grelmicro.service import context, plugin

    assert context.get(str, default=None) is None
    await grelmicro_load(prepare)
    assert context.get(str) == "foobar"
    assert context.get(plugin.Cancel)


@MARK
async def test_a_fixture_is_enough(grelmicro_load, grelmicro_plugin_context, grelmicro_stage):
    from grelmicro.service import context

    await grelmicro_load(".plugins" if __package__ else "plugins")
    assert context.get(str) == "foobar"
    assert context.current() is grelmicro_plugin_context is grelmicro_stage.plugin_context


@MARK
async def test_nothing_is_left():
    from grelmicro.service import context

    assert context.get(str, default=None) is None
    context.add("mine")


def test_nothing_is_left_by_a_plain_test():
    from grelmicro.service import context

    assert context.get(str, default=None) is None
    context.add("mine")


def test_nor_here():
    from grelmicro.service import context

    assert context.get(str, default=None) is None


@pytest.mark.grelmicro_plugins("plugins")
def test_a_plain_function():
    from grelmicro.service import context

    assert context.get(str) == "foobar"


@pytest.mark.grelmicro_plugins("plugins")
class TestMethods:
    @MARK
    async def test_a_method(self, tmp_path):
        from grelmicro.service import context

        assert tmp_path.exists()
        assert context.get(str) == "foobar"

    @pytest.mark.parametrize("number", [1, 2])
    @pytest.mark.grelmicro_plugins.with_args(prepare)
    @MARK
    async def test_more_of_them(self, number):
        from grelmicro.service import context

        assert number and context.get(str) == "foobar"


class TestSettings:
    @pytest.fixture
    def grelmicro_config_source(self):
        return {{"web": {{"port": 8080}}}}

    @MARK
    async def test_settings(self, grelmicro_context, grelmicro_load):
        import dataclasses
        from grelmicro.service import config, di

        @dataclasses.dataclass
        class Web(config.Config, section="web"):
            port: int

        await grelmicro_load(config)
        assert (await di.nject(Web)).port == 8080
"""


def run(
    folder: Path, *arguments: str, path: str = "", mark: str = "pytest.mark.asyncio"
) -> tuple[int, str]:
    """Pytest's exit status in a folder, and what it said."""
    (folder / "plugins.py").write_text(PLUGINS)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    if not (folder / "test_it.py").exists():
        (folder / "test_it.py").write_text(TESTS.format(mark=mark))
    options = ["-p", "no:cacheprovider", "--strict-markers", *arguments]
    if "no:asyncio" not in arguments:
        options += ["-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [path, str(folder)]))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout


def installed(folder: Path, *requirements: str) -> str:
    """A folder with distributions other than those of this environment."""
    uv = os.environ.get("HATCH_UV", "uv")
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--target", str(folder), *requirements],
        check=True,
        timeout=100,
    )
    return str(folder)


BACKEND = """
@pytest.fixture
def anyio_backend():
    return "asyncio"
"""


@pytest.mark.parametrize("kind", ["newest asyncio", "oldest asyncio", "auto", "anyio"])
def test_plugins_are_prepared_for_tests(kind: str, tmp_path: Path) -> None:
    arguments, mark, path = [], "pytest.mark.asyncio", ""
    if kind == "oldest asyncio":
        path = installed(tmp_path / "old", "pytest-asyncio==0.24.*", "pytest==8.3.*")
    elif kind == "auto":
        arguments, mark = ["-o", "asyncio_mode=auto"], "lambda test: test"
    elif kind == "anyio":
        arguments, mark = ["-p", "no:asyncio"], "pytest.mark.anyio\n" + BACKEND
    status, printed = run(tmp_path, *arguments, "test_it.py", path=path, mark=mark)
    assert status == 0, printed
    assert "11 passed" in printed


def test_what_was_prepared_is_undone(tmp_path: Path) -> None:
    status, printed = run(tmp_path, "-s", "-o", "asyncio_mode=auto", "-k", "plain or wrapped")
    assert status == 0, printed
    assert printed.count("undone") == 2


@pytest.mark.parametrize("kind", ["async def", "def"])
def test_a_plugin_that_fails_fails_the_test_alone(kind: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        f"""
import pytest

async def broken():
    raise LookupError("this plugin is broken")

@pytest.mark.grelmicro_plugins("plugins", broken)
{kind} test_first():
    raise AssertionError("not reached")

{kind} test_second():
    pass

@pytest.mark.grelmicro_plugins("plugins")
{kind} test_third():
    raise ZeroDivisionError
"""
    )
    status, printed = run(tmp_path, "-s", "-o", "asyncio_mode=auto")
    assert status == 1
    assert "LookupError: this plugin is broken" in printed
    assert "2 failed, 1 passed" in printed
    assert "ZeroDivisionError" in printed
    assert printed.count("undone") == 2


def test_pytest_alone_loads_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test_it():\n"
        "    assert 'grelmicro.service.pytest_plugin' in sys.modules\n"
        "    assert 'grelmicro.service.context' not in sys.modules\n"
    )
    status, printed = run(tmp_path)
    assert status == 0, printed
