"""A Redis whose role outlives a restart, in a configuration file of its own."""

from collections.abc import Sequence
from urllib.parse import quote

from grelmicro.testing.servers._ports import LOCALHOST
from grelmicro.testing.servers._process import LOG, ServerProcess
from grelmicro.testing.servers._resp import RespConnection
from grelmicro.testing.servers.redis import RedisServer, _process_id, redis_server

_CONFIG = "server.conf"


def find_program() -> str:
    """Return the path of the server program that `redis_server` takes; raises what it raises."""
    with redis_server(own=True) as probe:  # the ladder knows programs, and gives servers only
        return probe._ours._argv(0)[0]


def start(
    program: str,
    config: Sequence[str],
    *args: str,
    password: str | None = None,
    database: str = "",
    hello: Sequence[str] = ("PING",),
) -> RedisServer:
    """Start a server with a configuration file, which it rewrites as sentinels change its role.

    Args:
        program: Path of the server program.
        config: The lines of the file at first.
        *args: More words for the command line, after the file's name.
        password: What clients have to give.
        database: What its URL ends with.
        hello: The first command that it gets at each start and restart.

    Raises:
        ServerStartError: It does not start; with the end of its log.
        RespError: It refused the first command.
    """

    def url(port: int) -> str:
        return f"redis://{login(password)}{LOCALHOST}:{port}{database}"

    def argv(port: int) -> list[str]:
        assert process.folder is not None
        if not (file := process.folder / _CONFIG).exists():
            file.write_text("".join(f"{line}\n" for line in config))
        ours = f"--bind {LOCALHOST} --port {port} --dir . --daemonize no"
        ours += f" --loglevel warning --logfile {LOG}"
        words = [program, _CONFIG, *args, *ours.split()]
        return [*words, "--requirepass", password] if password else words

    def ready(port: int, pid: int) -> bool:
        if _process_id(url(port)) != pid:
            return False
        with RespConnection(url(port)) as connection:
            connection.call(*hello)
        return True

    process = ServerProcess(argv, ready)
    process.start()
    return RedisServer(url(process.port), process=process)


def login(password: str | None) -> str:
    """Return the login of a URL, which is nothing without a password."""
    return f":{quote(password, safe='')}@" if password else ""
