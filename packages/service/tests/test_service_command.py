"""`python -m grelmicro.service run`, as a process."""

import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

RUN = ["-m", "grelmicro.service", "run"]

MODULE = """
import asyncio, socket, sys
from dataclasses import dataclass
from grelmicro.service import config, context, di, plugin
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

@dataclass(frozen=True)
class Words(config.Config, section="words"):
    one: str
    two: str
    three: str

async def say(words):
    print("said", words.one, words.two, words.three, file=sys.stderr, flush=True)

async def prepare():
    yield say(await di.nject(Words))

async def fail():
    raise LookupError("no luck")

async def failing():
    yield fail()

async def unprepared():
    raise LookupError("no luck")

async def leave():
    sys.exit(7)

async def leaving():
    yield leave()

async def hello(request):
    return PlainTextResponse("hello")

app = Starlette(routes=[Route("/", hello)])
"""


@pytest.fixture
def run(start: Any, tmp_path: Path) -> Any:
    """Run the command on the module."""
    (tmp_path / "words.py").write_text(MODULE)
    (tmp_path / "a.toml").write_text('[log]\ntty = false\n[words]\none = "a"\ntwo = "a"\n')
    (tmp_path / "b.json").write_text('{"words": {"two": "b", "three": "b"}}')
    return lambda *given, **env: start(command=[*RUN, *map(str, given)], env=env)


@pytest.mark.parametrize("forks", [[], ["--forks", "1"]])
def test_files_are_merged_and_the_environment_is_over_them(run: Any, forks: list[str]) -> None:
    files = ["--config", "a.toml", "--config", "b.json", "--env-prefix", "SVC"]
    program = run("words", *files, *forks, SVC_WORDS_THREE="env")
    assert program.ended() == 0
    assert program.events("said") == ["said a b env"]


@pytest.mark.parametrize("forks", [[], ["--forks", "2"]])
def test_it_serves_what_the_configuration_names(run: Any, tmp_path: Path, forks: list[str]) -> None:
    binds = ["--bind", "tcp://127.0.0.1:0", "--bind", f"unix://{tmp_path}/x.sock"]
    program = run("grelmicro.service.asgi", *binds, *forks, APP_ASGI_APP="words:app")
    program.until("Application startup complete")
    (port,) = program.ports()
    assert httpx.get(f"http://127.0.0.1:{port}/").text == "hello"
    with httpx.Client(transport=httpx.HTTPTransport(uds=f"{tmp_path}/x.sock")) as client:
        assert client.get("http://x/").text == "hello"
    assert program.ended(signal.SIGTERM) == 0
    assert not (tmp_path / "x.sock").exists()


@pytest.mark.parametrize("name", ["failing", "unprepared"])
def test_what_fails_is_logged_once_and_is_a_1(run: Any, name: str) -> None:
    program = run(f"words:{name}", "--config", "a.toml")
    assert program.ended() == 1
    assert program.log.read_text().count("LookupError: no luck") == 1
    assert all(json.loads(line) for line in program.log.read_text().splitlines())


def test_a_task_that_exits_says_how(run: Any) -> None:
    assert run("words:leaving").ended() == 7


def test_what_is_missing_in_the_configuration_is_a_1_without_a_traceback(run: Any) -> None:
    program = run("words", "--config", "a.toml")
    assert program.ended() == 1
    assert "words.three: it is missing" in program.log.read_text()
    assert "Traceback" not in program.log.read_text()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "PLUGIN"),
        (["words", "--forks", "-1"], "--forks: -1: it is less than 0"),
        (["words", "--bind", "8000"], "the socket '8000': use tcp://host:port"),
        (["words", "--grace", "0"], "--grace: 0: it is not above 0"),
        (["words", "--config", "nowhere.toml"], "nowhere.toml"),
        (["words", "--config", "words.py"], "configuration is read from .toml"),
    ],
)
def test_what_is_no_call_is_a_2(run: Any, given: list[str], text: str) -> None:
    program = run(*given)
    assert program.ended() == 2
    assert text in program.log.read_text()
    assert "Traceback" not in program.log.read_text()


def test_a_level_that_is_none_is_told(run: Any, tmp_path: Path) -> None:
    (tmp_path / "loud.toml").write_text('[log]\nlevel = "LOUD"\n')
    program = run("words", "--config", "loud.toml")
    assert program.ended() == 2
    assert "log" in program.log.read_text()


def test_hup_reads_the_files_again(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[words]\none = "1"\ntwo = "2"\nthree = "3"\n')
    binds = ["--bind", "tcp://127.0.0.1:0", "--forks", "1"]
    given = ["words", "grelmicro.service.asgi", "--config", "a.toml", "--config", file, *binds]
    program = run(*given, APP_ASGI_APP="words:app")
    program.until("all workers are ready")
    file.write_text('[words]\none = "1"\ntwo = "2"\nthree = "new"\n')
    program.send(signal.SIGHUP)
    program.until("said 1 2 new")
    program.until("exited with 0")
    assert program.ended(signal.SIGTERM) == 0
