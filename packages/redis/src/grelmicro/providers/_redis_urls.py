"""Reading the URLs of servers, sentinels and clusters; redis-py reads each part."""

from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from redis.asyncio.connection import parse_url

__all__ = ["SCHEMES", "Topology"]

SCHEMES = (
    "redis", "rediss", "unix",
    "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip

Kind = Literal["single", "sentinel", "cluster"]

_PORTS: dict[Kind, int] = {"single": 6379, "sentinel": 26379, "cluster": 6379}

_SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}


@dataclass(frozen=True)
class Topology:
    """What a URL says: how many servers there are, who knows about them, and how to connect.

    Attributes:
        kind: `single`, `sentinel` or `cluster`.
        places: The server, the sentinels, or nodes of the cluster; none for a unix socket.
        options: What redis-py reads out of the URL for the servers themselves.
        service: What sentinels call the servers; empty without them.
        sentinel_options: The same for the sentinels.
    """

    kind: Kind
    places: list[tuple[str, int]]
    options: dict[str, Any] = field(repr=False)
    service: str = ""
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, url: str) -> "Topology":
        """Read a URL.

        Raises:
            ValueError: It cannot be read; the URL is not shown.
        """
        parts = urlsplit(url)
        base, _, way = parts.scheme.partition("+")
        if not way:
            return _single(url)
        hosts = _hosts(parts, _PORTS["sentinel" if way == "sentinel" else "cluster"])
        if way == "cluster":
            return cls("cluster", hosts, _options(parts, base, hosts[0], parts.path))
        return _watched(parts, base, hosts)


def _single(url: str) -> Topology:
    options: dict[str, Any] = {**parse_url(url)}
    if "path" in options:
        return Topology("single", [], options)
    place = (str(options.get("host", "localhost")), int(options.get("port", _PORTS["single"])))
    return Topology("single", [place], options)


def _watched(parts: SplitResult, base: str, hosts: list[tuple[str, int]]) -> Topology:
    """The topology of `redis+sentinel://host1,host2/service/db`."""
    service, _, db = parts.path.strip("/").partition("/")
    query = dict(parse_qsl(parts.query))
    theirs = {name: query.pop(key) for key, name in _SENTINEL_OPTIONS.items() if key in query}
    options = _options(parts._replace(query=urlencode(query)), base, hosts[0], f"/{db}")
    shared = {
        name: value for name, value in options.items() if name.startswith(("ssl", "connection_"))
    }
    return Topology("sentinel", hosts, options, unquote(service), {**shared, **theirs})


def _options(parts: SplitResult, base: str, host: tuple[str, int], path: str) -> dict[str, Any]:
    login, at, _ = parts.netloc.rpartition("@")
    name = f"[{host[0]}]" if ":" in host[0] else host[0]
    one = parts._replace(scheme=base, netloc=f"{login}{at}{name}:{host[1]}", path=path)
    return {**parse_url(urlunsplit(one))}


def _hosts(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    """Hosts and ports of a list with commas."""
    texts = parts.netloc.rpartition("@")[2].split(",")
    found = [urlsplit(f"//{text}") for text in texts]
    if not all(one.hostname for one in found):
        raise ValueError("a host has no name")
    return [(str(one.hostname), one.port or default_port) for one in found]
