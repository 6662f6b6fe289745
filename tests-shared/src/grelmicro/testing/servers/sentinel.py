"""A Redis with replicas and the sentinels that watch over them, all own servers."""

import contextlib
import json
from collections.abc import Sequence
from typing import Self
from urllib.parse import quote

from grelmicro.testing.servers._configured import find_program, login, start
from grelmicro.testing.servers._resp import RespError
from grelmicro.testing.servers._sentinel_view import SERVICE, count_well, role_of
from grelmicro.testing.servers._wait import ask, wait_until
from grelmicro.testing.servers.redis import RedisServer

_DATA = ["repl-diskless-sync yes", "repl-diskless-sync-delay 0", "shutdown-timeout 0", 'save ""']
# What a sentinel does every second, or every ten, by default. Its first ping comes as late as it
# thinks a silent server dead where that takes a second or less: every new primary would be.
_HASTE = "ping-period 100 info-period 500 ask-period 200 publish-period 200 tilt-period 2000"
_HELLO = ("SENTINEL", "DEBUG", *_HASTE.split())


class RedisSentinel:
    """A primary, its replicas and their sentinels. As a context manager it stops with the block.

    Each server may be killed, paused, resumed and restarted; it comes back in the role that it had,
    and sentinels give it another one if need be. What waits does so for 45 seconds.

    Args:
        servers: The primary and its replicas.
        sentinels: Who watches them, under the service name `mymaster`.
        url: How clients find them.
    """

    def __init__(
        self, servers: Sequence[RedisServer], sentinels: Sequence[RedisServer], url: str
    ) -> None:
        self.servers: Sequence[RedisServer] = tuple(servers)
        self.sentinels: Sequence[RedisServer] = tuple(sentinels)
        self.url: str = url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all servers and remove their folders; twice does no harm."""
        everybody = (*self.sentinels, *self.servers)
        for server in everybody:
            server.kill()  # nothing to save, and no primary that waits for its replicas
        for server in everybody:
            server.stop()

    @property
    def primary(self) -> RedisServer:
        """The primary, as the first sentinel that answers says; it may have died just now.

        Raises ConnectionError where no sentinel answers.
        """
        for port in self._answers():
            return next(server for server in self.servers if server.port == port)
        raise ConnectionError("no sentinel answers")

    @property
    def replicas(self) -> Sequence[RedisServer]:
        """All servers but the primary, dead ones too."""
        primary = self.primary
        return [server for server in self.servers if server is not primary]

    def failover(self) -> RedisServer:
        """Ask a sentinel for a fail-over, wait for it and return the new primary.

        A sentinel that is not ready, after another fail-over for one, is asked again.

        Raises:
            TimeoutError: No sentinel did it.
        """
        old = self.primary
        wait_until(self._accepted, "a sentinel takes the order to fail over")
        return self.wait_for_failover(old)

    def wait_for_failover(self, old: RedisServer) -> RedisServer:
        """Wait until a primary took over from `old`, and return it.

        All sentinels that answer name it, and find all servers that answer to be in sync with it.

        Raises:
            TimeoutError: That did not come to be.
        """
        wait_until(lambda: self._took_over(old), "a new primary is there")
        return self.primary

    def _accepted(self) -> bool:
        for sentinel in self.sentinels:
            with contextlib.suppress(OSError, RespError):
                return ask(sentinel, "SENTINEL", "FAILOVER", SERVICE) == b"OK"
        return False

    def _took_over(self, old: RedisServer) -> bool:
        ports = set(self._answers())
        roles = {server.port: role_of(server) for server in self.servers}
        alive = [role for role in roles.values() if role is not None]
        return (
            old.port not in ports
            and [roles[port] for port in ports] == ["master"]
            and alive.count("slave") == len(alive) - 1
            and all(count_well(one, "REPLICAS") in (None, len(alive) - 1) for one in self.sentinels)
        )

    def _answers(self) -> list[int]:
        """Return the port of the primary, as each sentinel that answers says."""
        ports = []
        for sentinel in self.sentinels:
            with contextlib.suppress(OSError):
                place = ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
                assert isinstance(place, list)
                ports.append(int(place[1]))
        return ports


def redis_sentinel(
    *,
    replicas: int = 1,
    sentinels: int = 1,
    password: str | None = None,
    sentinel_password: str | None = None,
) -> RedisSentinel:
    """Start own servers of the first of `redis_server`'s rungs 2 and 3 that is there.

    A server that is silent for half a second counts as dead, and a replica is promoted in one to
    three seconds. From one death to the next, sentinels let four seconds pass.

    Args:
        replicas: How many replicas the primary has, 0 or more.
        sentinels: How many watch, 1 or more; more than half of them have to agree.
        password: What clients have to give to the primary and the replicas. With a space or a quote
            in it a sentinel may not read again what it wrote, and not come back from a restart.
        sentinel_password: What clients have to give to the sentinels; in the URL's query.

    Raises:
        ServerUnavailableError: No server program is there; says what to install.
        ServerStartError: A server does not start.
        TimeoutError: They did not find each other.
    """
    if replicas < 0 or sentinels < 1:
        raise ValueError("there have to be 0 or more replicas and 1 or more sentinels")
    program = find_program()
    with contextlib.ExitStack() as stack:
        servers = _servers(stack, program, replicas, password)
        watch = _watch(servers[0], sentinels // 2 + 1, password)
        watchers = [
            stack.enter_context(
                start(program, watch, "--sentinel", password=sentinel_password, hello=_HELLO)
            )
            for _ in range(sentinels)
        ]
        wait_until(
            lambda: all(
                count_well(one, "REPLICAS") == replicas
                and count_well(one, "SENTINELS") == sentinels - 1
                for one in watchers
            ),
            "the sentinels know all servers",
        )
        stack.pop_all()
    return RedisSentinel(servers, watchers, _url(watchers, password, sentinel_password))


def _servers(
    stack: contextlib.ExitStack, program: str, replicas: int, password: str | None
) -> list[RedisServer]:
    """Start the primary and its replicas, and wait until they are in sync."""
    config = [*_DATA, f"masterauth {_quoted(password)}"] if password else _DATA
    servers: list[RedisServer] = []
    for _ in range(1 + replicas):
        leader = [f"replicaof {servers[0].host} {servers[0].port}"] if servers else []
        server = start(program, [*config, *leader], password=password, database="/0")
        servers.append(stack.enter_context(server))
    wait_until(lambda: all(map(role_of, servers)), "the replicas are in sync")
    return servers


def _watch(primary: RedisServer, quorum: int, password: str | None) -> list[str]:
    """Return the configuration of a sentinel."""
    config = {
        "monitor": f"{primary.host} {primary.port} {quorum}",
        "down-after-milliseconds": "500",
        "failover-timeout": "2000",
    }
    if password:
        config["auth-pass"] = _quoted(password)
    return [f"sentinel {name} {SERVICE} {value}" for name, value in config.items()]


def _url(sentinels: Sequence[RedisServer], password: str | None, theirs: str | None) -> str:
    places = ",".join(f"{sentinel.host}:{sentinel.port}" for sentinel in sentinels)
    query = f"?sentinel_password={quote(theirs, safe='')}" if theirs else ""
    return f"redis+sentinel://{login(password)}{places}/{SERVICE}/0{query}"


def _quoted(text: str) -> str:
    """Quote a word of a configuration file, whose rules are those of JSON as far as we go."""
    return json.dumps(text, ensure_ascii=False)
