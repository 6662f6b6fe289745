"""The handle on a real server process: faults, restarts, ports, and what is left afterwards."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grelmicro.testing.servers import RedisServer, ServerStartError, _process, redis_server
from grelmicro.testing.servers._ports import free_port
from grelmicro.testing.servers._resp import RespConnection, RespError


def runs(pid: int) -> bool:
    """Whether a process runs; one that only waits for its parent to look does not."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def pid_of(server: RedisServer) -> int:
    assert server.pid is not None
    return server.pid


def answers(url: str) -> bool:
    try:
        with RespConnection(url, timeout=1) as connection:
            return connection.call("PING") == b"PONG"
    except OSError:
        return False


def folder_of(server: RedisServer) -> Path:
    with RespConnection(server.url) as connection:
        answer = connection.call("CONFIG", "GET", "dir")
    assert isinstance(answer, list)
    return Path(answer[1].decode())


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server(own=True) as server:
        yield server


def test_a_server_keeps_nothing_and_leaves_nothing() -> None:
    with redis_server(own=True) as server:
        folder, pid = folder_of(server), pid_of(server)
        assert {entry.name for entry in folder.iterdir()} == {"server.log"}
        assert folder.stat().st_mode & 0o077 == 0
        with RespConnection(server.url) as connection:
            assert connection.call("CONFIG", "GET", "save") == [b"save", b""]
            assert connection.call("CONFIG", "GET", "appendonly") == [b"appendonly", b"no"]
            assert connection.call("CONFIG", "GET", "bind") == [b"bind", b"127.0.0.1"]
    assert not runs(pid)
    assert not folder.exists()


def test_a_killed_server_comes_back_on_its_port_with_its_folder() -> None:
    with redis_server(own=True, args=["--appendonly", "yes", "--appendfsync", "always"]) as server:
        folder, first, port = folder_of(server), pid_of(server), server.port
        with RespConnection(server.url) as connection:
            connection.call("SET", "kept", "1")
        server.kill()
        assert not runs(first)
        assert server.pid is None
        assert not answers(server.url)
        server.restart()
        assert (server.port, folder_of(server)) == (port, folder)
        assert server.pid not in (None, first)
        with RespConnection(server.url) as connection:
            assert connection.call("GET", "kept") == b"1"


def test_a_paused_server_is_silent_until_resumed(server: RedisServer) -> None:
    with RespConnection(server.url, timeout=0.1) as connection:
        server.pause()
        with pytest.raises(TimeoutError):
            connection.call("PING")
    server.resume()
    assert answers(server.url)


def test_a_paused_server_still_ends_gently() -> None:
    with redis_server(own=True, args=["--shutdown-on-sigterm", "save"]) as server:
        with RespConnection(server.url) as connection:
            connection.call("SET", "kept", "1")
        server.pause()
        server.restart()
        with RespConnection(server.url) as connection:
            assert connection.call("GET", "kept") == b"1"


STATES: dict[str, Callable[[RedisServer], object]] = {
    "running": lambda server: None,
    "killed": RedisServer.kill,
    "paused": RedisServer.pause,
    "stopped": RedisServer.stop,
    "killed by another": lambda server: os.kill(pid_of(server), signal.SIGKILL),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("operation", ["kill", "pause", "resume", "restart", "stop"])
def test_every_operation_works_twice_in_every_state(state: str, operation: str) -> None:
    with redis_server(own=True) as server:
        pid = pid_of(server)
        STATES[state](server)
        for _ in range(2):
            getattr(server, operation)()
        if operation == "restart":
            assert answers(server.url)
    assert server.pid is None
    assert not runs(pid)


def test_a_server_deaf_to_sigterm_is_ended_all_the_same(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_process, "_STOP_SECONDS", 0.2)
    pid = pid_of(server)
    with RespConnection(server.url, timeout=0.2) as connection, pytest.raises(TimeoutError):
        connection.call("EVAL", "redis.call('SET', 'a', 1) while true do end", "0")
    server.stop()
    assert not runs(pid)


def test_a_password_is_asked_for_and_not_shown() -> None:
    with redis_server(password="p@ss/w rd%") as server:
        assert answers(server.url)
        assert "p@ss" not in repr(server)
        assert "p%40ss" not in repr(server)
        nobody = RespConnection(f"redis://{server.host}:{server.port}")
        with nobody, pytest.raises(RespError, match="NOAUTH"):
            nobody.call("PING")
        with pytest.raises(RespError, match="WRONGPASS"):
            RespConnection(f"redis://:wrong@{server.host}:{server.port}")


def test_a_unix_socket_is_opened() -> None:
    import socket
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a b.sock")
        with redis_server(unix_socket=path) as server, socket.socket(socket.AF_UNIX) as client:
            assert server.unix_socket == path
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            assert client.recv(7) == b"+PONG\r\n"


def test_a_failed_start_shows_the_log_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ServerStartError, match=r"maxmemory \"nonsense\""):
        redis_server(args=["--maxmemory", "nonsense"])
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_process, "_READY_SECONDS", 0.3)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    program = tmp_path / "server"
    program.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec /bin/sleep 600\n")
    program.chmod(0o755)
    with pytest.raises(ServerStartError, match="did not answer"):
        RedisServer.start(program)
    assert not runs(int((tmp_path / "pid").read_text()))
    assert list((tmp_path / "temp").iterdir()) == []


# Ports


def test_a_port_taken_before_the_start_is_given_up_for_another(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = [server.port, free_port(), server.port]
    monkeypatch.setattr(_process, "free_port", lambda: ports.pop())
    with redis_server(own=True, args=["--bind", "127.0.0.1"]) as first:
        assert first.port != server.port  # the answer of the other one did not fool it
        assert ports == [server.port]


def test_a_port_that_stays_taken_is_an_error(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_process, "free_port", lambda: server.port)
    with pytest.raises(ServerStartError, match="in use"):
        redis_server(own=True)


def test_workers_in_parallel_share_no_port() -> None:
    code = (
        "from grelmicro.testing.servers import redis_server\n"
        "with redis_server() as one, redis_server() as two:\n"
        "    print(one.port, two.port, flush=True); input()"
    )
    pipe = subprocess.PIPE
    workers = [
        subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
        for _ in range(4)
    ]
    ports: list[str] = []
    for worker in workers:
        assert worker.stdout is not None
        ports += worker.stdout.readline().split()
    for worker in workers:
        worker.communicate("\n")
    assert len(set(ports)) == len(ports) == 8
