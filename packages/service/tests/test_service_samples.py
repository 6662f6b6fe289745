"""Programs as users write them: modules on disk, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Start = Callable[..., "subprocess.Popen[str]"]

BOOTSTRAP = """
from grelmicro.service import plugin
print(plugin.stage("some.module.with.prepare"), flush=True)
"""

PREPARE = """
import asyncio
from grelmicro.service import context, plugin

class Foo:
    ...

async def task():
    await asyncio.sleep(0)
    return "task"

async def server():
    my_component = context.get(Foo)
    print("serving", type(my_component).__name__, flush=True)
    await asyncio.Future()

async def undo():
    print("undone", flush=True)

async def prepare(load: plugin.Loader):
    await load('.another.plugin')
    my_component = context.add(Foo())
    context.get(plugin.Teardown).add(undo())
    yield task()
    yield server()
"""

ANOTHER = """
from grelmicro.service import context

async def prepare():
    context.add("from another plugin")
"""

DI = """
import asyncio
from typing import Optional
from grelmicro.service import di, plugin

class Bar:
    pass

class Foo:
    def __init__(self, bar: Bar = None):
        self.bar = bar

    @classmethod
    async def adapt(cls, baz: str) -> "Foo":
        return Foo()

async def adapt(bar: Bar) -> Foo:
    foo = Foo(bar)
    return foo

async def task():
    foo = await di.nject(Foo, baz="baz")
    assert foo.bar is None
    bar = Bar()
    foo = await di.nject(Foo, bar=bar)
    assert foo.bar is bar
    return "injected"

async def prepare():
    di.register(Foo.adapt)
    di.register(adapt)
    yield task()

print(plugin.stage(prepare))
"""

CONFIG_TOML = """
log_level = "DEBUG"
show_warnings = "yes"
[foobar]
some = "value"
"""

CONFIG = """
import attr
import tomllib
from pathlib import Path
from grelmicro.service import config

toml_load = lambda name: tomllib.loads(Path(name).read_text())

@attr.s(auto_attribs=True)
class GeneralConfig:
    log_level: str = "INFO"
    show_warnings: bool = config.bool_var(False)

@attr.s(auto_attribs=True)
class FoobarConfig:
    some: str

source = config.ConfigSource(toml_load('config.toml'), env_prefix="APP")
general_config = source.load(GeneralConfig)
assert general_config == GeneralConfig(log_level="DEBUG", show_warnings=True)
foobar_config = source.load(FoobarConfig, 'foobar')
assert foobar_config.some == "thing"
print("loaded")
"""

SHORTCUT = """
import attr
import tomllib
from pathlib import Path
from grelmicro.service import config, context, di, plugin

toml_load = lambda name: tomllib.loads(Path(name).read_text())

@attr.s(auto_attribs=True)
class GeneralConfig(config.Config):
    log_level: str = "INFO"
    show_warnings: bool = config.bool_var(False)

@attr.s(auto_attribs=True)
class FoobarConfig(config.Config, section="foobar"):
    some: str

async def prepare(load: plugin.Loader):
    source = context.add(config.ConfigSource(toml_load('config.toml'), env_prefix="APP"))
    await load(config)
    foobar_config = await di.nject(FoobarConfig)
    general = await di.nject(GeneralConfig)
    print(foobar_config.some, general.log_level, general.show_warnings)

plugin.stage(prepare)
"""

LOG = """
import sys
from grelmicro.service import log
log_config = log.LogConfig(tty=sys.stdout.isatty(), level="DEBUG")
log_config.setup()

import structlog
structlog.get_logger("shop").debug("ordered", product="tea")
raise LookupError("uncaught")
"""


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a program in a folder of its own."""

    def started(source: str, **environment: str) -> subprocess.Popen[str]:
        (tmp_path / "program.py").write_text(source)
        return subprocess.Popen(
            [sys.executable, "-W", "error", "program.py"],
            cwd=tmp_path,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return started


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """A process's exit status and what it printed."""
    with process:
        try:
            printed, complained = process.communicate(timeout=30)
        finally:
            process.kill()
    return process.returncode, printed, complained


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_bootstrap(number: signal.Signals, start: Start, tmp_path: Path) -> None:
    for name, source in (("with/prepare.py", PREPARE), ("with/another/plugin.py", ANOTHER)):
        path = tmp_path / "some/module" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    process = start(BOOTSTRAP)
    assert process.stdout is not None
    assert process.stdout.readline() == "serving Foo\n"
    sent = time.monotonic()
    process.send_signal(number)
    status, printed, complained = ended(process)
    assert (status, printed) == (0, "undone\n['task', CancelledError()]\n"), complained
    assert complained == ""
    assert time.monotonic() - sent < 5  # it is idle


def test_injection(start: Start) -> None:
    assert ended(start(DI)) == (0, "['injected']\n", "")


@pytest.mark.parametrize(
    ("source", "prints"), [(CONFIG, "loaded\n"), (SHORTCUT, "thing DEBUG True\n")]
)
def test_configuration(source: str, prints: str, start: Start, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG_TOML)
    assert ended(start(source, APP_FOOBAR_SOME="thing")) == (0, prints, "")


def test_variables_that_nothing_reads_are_one_warning(start: Start, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG_TOML)
    stray = {"APP_FOOBAR_SOME": "thing", "APP_FOOBAR_SMOE": "secret", "APP_SERVICE_PORT": "443"}
    status, _, complained = ended(start(SHORTCUT, **stray))
    assert status == 0
    (line,) = complained.splitlines()
    assert "APP_FOOBAR_SMOE, APP_SERVICE_PORT" in line
    assert "secret" not in line


def test_logs(start: Start) -> None:
    status, printed, complained = ended(start(LOG))
    assert (status, printed) == (1, "")
    first, second = map(json.loads, complained.splitlines())
    assert (first["event"], first["product"], first["level"]) == ("ordered", "tea", "debug")
    assert (second["event"], second["level"]) == ("uncaught exception", "critical")
    assert "LookupError: uncaught" in second["exception"]


HANGS = """
import asyncio, threading
from grelmicro.service import context, plugin

async def stubborn():
    print("up", flush=True)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

async def tells():
    await context.get(plugin.Cancel).wait()
    print("asked", flush=True)

async def in_a_thread():
    await asyncio.to_thread(threading.Event().wait, 60)

async def prepare(teardown: plugin.Teardown):
    teardown.add(lambda: print("undone", flush=True))
    yield tells()
    yield in_a_thread()
    yield stubborn()

plugin.stage(prepare, grace=25)
import os
print("over", flush=True)
os._exit(0)  # the thread that nobody can end
"""


def test_a_second_signal_forces_what_ignores_the_first(start: Start) -> None:
    process = start(HANGS)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGTERM)
    status, printed, complained = ended(process)
    assert (status, printed) == (0, "undone\nover\n")
    assert "ignores its cancellation" in complained
    assert time.monotonic() - sent < 10
