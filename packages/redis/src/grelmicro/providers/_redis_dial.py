"""Where a server is, and how to come to a connection that is ready for commands."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import hiredis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004  # redis's own name
    RedisError,
    ResponseError,
)

from grelmicro.providers._redis_connection import Connection, NotSentError, OutcomeUnknownError

__all__ = ["Address", "dial"]

Changed = Callable[[Connection], None]


class _LostError(ConnectionError):
    """The server hung up before it had greeted us."""


class _Place(NamedTuple):
    """One address of a host."""

    family: int
    host: str
    port: int = 0


@dataclass(frozen=True)
class Address:
    """One server, and who we are to it.

    Args:
        options: What redis-py reads out of a URL; TLS settings are its own class's to understand.
        primary: Whether to make sure that it is no replica.
    """

    options: dict[str, Any] = field(repr=False)
    primary: bool = False

    @classmethod
    def of(cls, url: str) -> Self:
        """The server of a `redis://`, `rediss://` or `unix://` URL."""
        return cls({**parse_url(url)})

    def at(self, host: str, port: int) -> Self:
        """Another server that takes the same credentials."""
        return replace(self, options={**self.options, "host": host, "port": port})

    @property
    def path(self) -> str | None:
        """The path of a unix socket."""
        is_unix = self.options.get("connection_class") is UnixDomainSocketConnection
        return str(self.options["path"]) if is_unix else None

    @property
    def host(self) -> str:
        """The server's name or address."""
        return str(self.options.get("host", "localhost"))

    @property
    def port(self) -> int:
        """Its TCP port."""
        return int(self.options.get("port", 6379))

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    @cached_property
    def tls(self) -> ssl.SSLContext | None:
        """How to speak TLS; None for plain TCP. Reads certificates from files."""
        if self.options.get("connection_class") is not SSLConnection:
            return None
        names = [name for name in self.options if name.startswith("ssl_")]
        settings: dict[str, Any] = {name: self.options[name] for name in names}
        if settings.get("ssl_cert_reqs") != "none":  # redis-py 5 checks no names unless it is told
            settings.setdefault("ssl_check_hostname", True)
        return SSLConnection(host=self.host, **settings).ssl_context.get()

    def greeting(self) -> list[tuple[Any, ...]]:
        """The first words: protocol and credentials."""
        secret = self.options.get("password")
        login = ("AUTH", self.options.get("username") or "default", secret)
        hello = ("HELLO", int(self.options.get("protocol") or 3))
        return [(*hello, *login) if secret else hello]

    def old_greeting(self) -> list[tuple[Any, ...]]:
        """The first words to a server older than Redis 6, which knows no HELLO."""
        username, secret = self.options.get("username"), self.options.get("password")
        login = ("AUTH", username, secret) if username else ("AUTH", secret)
        return [login] if secret else []

    def setting_up(self) -> list[tuple[Any, ...]]:
        """What follows the greeting; an error to any of it is an error of the connection."""
        name, db = self.options.get("client_name"), int(self.options.get("db") or 0)
        named = [("CLIENT", "SETNAME", name)] if name else []
        selected = [("SELECT", db)] if db else []
        return [*named, *selected, *([("ROLE",)] if self.primary else [])]


async def dial(address: Address, *, timeout: float, changed: Changed) -> Connection:
    """Make a connection, greet the server, and give it out when it may be used.

    Args:
        address: The server.
        timeout: Seconds that all of it may take.
        changed: See `Connection`.

    Raises:
        redis.exceptions.RedisError: There is no server, or it refuses us.
        TimeoutError: It did not answer in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    try:
        async with asyncio.timeout_at(deadline):
            places = await _places(address)
            for left in range(len(places), 1, -1):  # each has its share of the time
                share = (deadline - loop.time()) / left
                with suppress(OSError, _LostError):
                    async with asyncio.timeout(share):
                        return await _dial(address, places.pop(0), timeout, changed)
            return await _dial(address, places.pop(), timeout, changed)
    except TimeoutError:
        raise TimeoutError(f"{address} did not answer in time") from None
    except OSError as error:
        raise ConnectionError(f"cannot connect to {address}: {error}") from error


async def _dial(address: Address, place: _Place, timeout: float, changed: Changed) -> Connection:
    connection = Connection(timeout=timeout, changed=changed)
    try:
        await _reach(address, place, connection)
        await _greet(address, connection)
    except (NotSentError, OutcomeUnknownError) as error:
        raise _LostError(f"cannot connect to {address}: it hung up") from error
    except BaseException:
        connection.lose("not connected")
        raise
    connection.open_up()
    return connection


async def _places(address: Address) -> list[_Place]:
    """All addresses that the host's name has."""
    if address.path is not None:
        return [_Place(socket.AF_UNSPEC, address.path)]
    found = await asyncio.get_running_loop().getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM
    )
    return [_Place(family, str(place[0]), int(place[1])) for family, _, _, _, place in found]


async def _reach(address: Address, place: _Place, connection: Connection) -> None:
    """Connect a socket."""
    loop = asyncio.get_running_loop()
    if address.path is not None:
        await loop.create_unix_connection(lambda: connection, address.path)
        return
    await loop.create_connection(
        lambda: connection,
        place.host,
        place.port,
        family=place.family,
        ssl=address.tls,
        server_hostname=address.host if address.tls else None,
    )


async def _greet(address: Address, connection: Connection) -> None:
    greeting, setting_up = address.greeting(), address.setting_up()
    replies = await _ask(connection, [*greeting, *setting_up])
    if _knows_no_hello(replies[0]):
        replies = await _ask(connection, [*address.old_greeting(), *setting_up])
    for reply in replies:
        if isinstance(reply, BaseException):
            raise _named(reply, address)
    if address.primary and replies[-1][0] != b"master":
        raise ConnectionError(f"{address} is no primary any more")


async def _ask(connection: Connection, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    futures = [connection.send(hiredis.pack_command(each)) for each in commands]
    return await asyncio.gather(*futures, return_exceptions=True)


def _knows_no_hello(reply: object) -> bool:
    return isinstance(reply, ResponseError) and str(reply).lower().startswith(
        ("err unknown command", "unknown command")
    )


def _named(error: BaseException, address: Address) -> BaseException:
    """The refusal with the server's name, of the same kind if it can be made."""
    if isinstance(error, AuthenticationError):
        return AuthenticationError(f"{address} refuses the credentials: {error}")
    if isinstance(error, RedisError) and type(error).__init__ is Exception.__init__:
        return type(error)(f"{address} refuses us: {error}")
    return error
