"""Every fence of every README and of the site is true: programs print what they say."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest
from documents import DOCUMENTS, FENCES, PROGRAMS, ROOT, SQLITE, WORDS, Fence, Program, in_language
from known_commands import KNOWN, WHEELS

from grelmicro.testing.servers import (
    PostgresServer,
    RedisServer,
    ServerUnavailableError,
    postgres_server,
    redis_server,
)
from grelmicro.testing.servers._resp import RespConnection
from grelmicro.testing.servers._sql import run_sql

LANGUAGES = {"console", "python", "sh", "text", "toml", "yaml", "json", "sql", "dockerfile", "none"}
"""Those that a fence may be in. `none` is for what is neither run nor compared."""

COMMANDS = [fence for fence in in_language("console") if "$ curl" not in fence.source]
"""What is run and compared; test_walkthroughs.py has the rest."""

GENERATED = {"llms.txt"}
"""What only the built site has; docs/site/build.py follows links to it."""

PYTEST_INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
"""

AT_HOME = re.compile(
    r"(redis|postgres)(?:ql)?://(?:[\w:]+@)?localhost(?::6379|:5432|(?=[\"/\s]))(?:/\w+)?"
)
"""Where readers have a server; ours is put in its place."""

PREFIX = re.compile(r'env_prefix="((?:\w+_)?(REDIS|POSTGRES)_)"')


Given = TypeVar("Given")


class Servers:
    """Throwaway servers, started where a program speaks of one, and empty for each."""

    def __init__(self) -> None:
        self._redis: RedisServer | None = None
        self._postgres: PostgresServer | None = None

    def redis(self) -> str:
        """The URL of a Redis with nothing in it."""
        self._redis = self._redis or _started(redis_server)
        with RespConnection(self._redis.url) as connection:
            connection.call("FLUSHALL")
        return self._redis.url

    def postgres(self) -> str:
        """The URL of a Postgres with nothing in it."""
        self._postgres = self._postgres or _started(postgres_server)
        run_sql(self._postgres.url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        return self._postgres.url

    def stop(self) -> None:
        """End what was started."""
        for server in (self._redis, self._postgres):
            if server:
                server.stop()

    def given_to(self, source: str) -> tuple[str, dict[str, str]]:
        """The program with our servers in it, and the variables that tell of them."""
        makers = {"redis": self.redis, "postgres": self.postgres}
        urls = {name: make() for name, make in makers.items() if name in source.lower()}
        environment = {f"{name.upper()}_URL": url for name, url in urls.items()}
        for prefix, name in PREFIX.findall(source):
            environment[f"{prefix}URL"] = urls[name.lower()]
        return AT_HOME.sub(lambda match: urls[match[1]], source), environment


def _started(climb: Callable[..., Given]) -> Given:
    try:
        return climb(own=True)
    except ServerUnavailableError as error:
        if error.required:
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    given = Servers()
    yield given
    given.stop()


Outcome = tuple[int, str, str]
Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def run_program() -> Iterator[Run]:
    """Run source in a process of its own: its exit status, stdout and stderr."""
    command = [sys.executable, "-W", "error", str(ROOT / "tests/program_runner.py")]
    pipe = subprocess.PIPE
    runner = subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, text=True)

    def run(folder: Path, source: str, name: str, **environment: str) -> Outcome:
        request = {
            "folder": str(folder),
            "source": source,
            "name": name,
            "environment": environment,
        }
        print(json.dumps(request), file=runner.stdin, flush=True)
        status = int(str(runner.stdout and runner.stdout.readline()))
        return status, (folder / "stdout").read_text(), (folder / "stderr").read_text()

    with runner:
        yield run
    assert runner.returncode == 0


def environment(**more: str) -> dict[str, str]:
    """This process's own, without what would tell a program of servers."""
    ours = ("GRELMICRO_", "REDIS_", "POSTGRES_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | dict.fromkeys(("PYTHONPATH", "MYPYPATH"), str(SQLITE / "src")) | more


def run_command(*command: str | Path, cwd: Path = ROOT, **more: str) -> str:
    """Run a command as a reader would; what it printed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def place(each: Fence | Program) -> str:
    """Name a case after where it stands."""
    return each.place


@pytest.mark.parametrize("program", [p for p in PROGRAMS if not p.is_test], ids=place)
def test_a_program_prints_what_stands_below_it(
    program: Program, servers: Servers, run_program: Run, tmp_path: Path
) -> None:
    source, variables = servers.given_to(program.source)
    name = str(program.fences[0].document)
    status, printed, complained = run_program(tmp_path, source, name, **variables)
    assert status == 0, printed + complained
    assert printed == program.prints or not program.prints
    assert "Traceback" not in complained  # of a task or a finalizer, which ends no process


def test_one_variable_moves_the_first_program_to_redis(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    first = PROGRAMS[0]
    (tmp_path / "prices.py").write_text(first.source)
    for prints in (first.prints, first.prints.partition("\n")[2]):
        printed = run_command(
            sys.executable, "prices.py", cwd=tmp_path, GRELMICRO_URL=own_redis.url
        )
        assert printed == prints  # the second process finds what the first has stored


def test_files_of_tests_pass(servers: Servers, tmp_path: Path) -> None:
    programs = [program for program in PROGRAMS if program.is_test]
    variables = {"GRELMICRO_TEST_REDIS_URL": servers.redis(), "GRELMICRO_REQUIRE": "redis,postgres"}
    for program in programs:
        source, more = servers.given_to(program.source)
        variables |= more
        (tmp_path / f"test_{module_name(program)}.py").write_text(source)
    (tmp_path / "pytest.ini").write_text(PYTEST_INI)
    options = ("-q", "-W", "error", "-p", "no:cacheprovider", "--import-mode=importlib")
    printed = run_command(sys.executable, "-m", "pytest", *options, cwd=tmp_path, **variables)
    assert re.search(
        rf"^{sum(p.source.count('def test_') for p in programs)} passed in", printed, re.M
    )


def module_name(program: Program) -> str:
    """The name of a file for it."""
    return re.sub(r"\W", "_", program.place)


def test_programs_pass_the_type_checker(tmp_path: Path) -> None:
    for program in PROGRAMS:
        (tmp_path / f"at_{module_name(program)}.py").write_text(program.typed_source)
    cache = ROOT / ".mypy_cache" / "documents"
    options = ("--strict", "--cache-dir", cache)
    run_command(sys.executable, "-m", "mypy", *options, tmp_path)


@pytest.mark.parametrize(
    "fence", [f for f in in_language("console") if "$ curl" not in f.source], ids=place
)
def test_a_command_prints_what_stands_below_it(fence: Fence) -> None:
    for command, expected in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", fence.source, re.MULTILINE):
        program, *words = shlex.split(command)
        assert program == "python"
        assert run_command(sys.executable, "-W", "error", *words) == expected


@pytest.mark.parametrize("fence", in_language("sh"), ids=place)
def test_commands_are_known_and_what_they_name_exists(fence: Fence) -> None:
    for line in fence.source.replace("\\\n", "").splitlines():
        command = " ".join(line.partition(" #")[0].split())
        if command and not WHEELS.fullmatch(command):
            assert command in KNOWN, "say in known_commands.py how this is known to be true"
            assert all((ROOT / path).exists() for path in KNOWN[command].split())


@pytest.mark.parametrize("fence", in_language("toml") + in_language("json"), ids=place)
def test_configuration_can_be_read(fence: Fence) -> None:
    read = {"toml": tomllib.loads, "json": json.loads}[fence.language]
    assert read(fence.source)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_fence_is_left_out(document: Path) -> None:
    fences = FENCES[document]
    marks = re.findall(r"^\s*(?:```|~~~)", document.read_text(), re.MULTILINE)
    assert len(marks) == 2 * len(fences)
    for fence in fences:
        assert fence.language in LANGUAGES, fence.place
        assert fence.words <= WORDS, fence.place
        assert fence.has_reason == ("notest" in fence.words), f"{fence.place}: say why, or run it"
    for before, fence in pairwise(fences):
        assert fence.language != "text" or before.language == "python"  # no other is compared


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", prose):
        assert target in GENERATED or (document.parent / target).exists(), target
