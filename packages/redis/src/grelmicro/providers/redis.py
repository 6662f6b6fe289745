"""The Redis provider: one place that knows the server, and one door to it."""

import asyncio
import random
from collections.abc import Iterator
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.exceptions import AuthenticationError, ConnectionError  # noqa: A004  # redis's own name
from redis.exceptions import TimeoutError as RedisTimeoutError

from grelmicro.errors import OutOfContextError
from grelmicro.providers._provider import Provider
from grelmicro.providers._redis_config import RedisConfig, RedisProviderConfigError, resolve
from grelmicro.providers._settings import masked

if TYPE_CHECKING:
    from grelmicro.cache.redis import RedisCacheAdapter

__all__ = ["RedisConfig", "RedisProvider", "RedisProviderConfigError"]

_RETRIES = (0.02, 0.1, 0.4)
"""Longest pauses, in seconds, before each repetition of a command that may be repeated."""


class RedisProvider(Provider):
    """A Redis or Valkey server: its address, its client, and the life of both.

    Settings come from keywords, then from the environment, then from defaults, field by field.
    Nothing is connected before the first command. Every operation ends within `timeout`.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`; it excludes the five fields below.
        host: The server's name or address.
        port: Its port, 6379 by default.
        db: The number of the database, 0 by default.
        username: For servers with access control lists.
        password: Shown nowhere.
        env_prefix: What the variables URL, or HOST, PORT, DB, USER, PASSWORD begin with.
        env_load: Whether to read the environment at all.
        timeout: Seconds within which every operation ends, 5 by default.
        max_connections: Most connections at a time, 64 by default; further commands wait.

    Raises:
        RedisProviderConfigError: A setting cannot be used, or there is no server to connect to.
    """

    short_name = "redis"

    def __init__(
        self,
        url: object | None = None,
        *,
        host: str | None = None,
        port: int | None = None,
        db: int | None = None,
        username: str | None = None,
        password: str | None = None,
        env_prefix: str = "REDIS_",
        env_load: bool = True,
        timeout: float | None = None,
        max_connections: int | None = None,
    ) -> None:
        given = {
            "url": url,
            "host": host,
            "port": port,
            "db": db,
            "username": username,
            "password": password,
            "timeout": timeout,
            "max_connections": max_connections,
        }
        self._start(resolve(given, env_prefix=env_prefix, env_load=env_load), env_prefix=env_prefix)

    @classmethod
    def from_config(cls, config: RedisConfig) -> Self:
        """Make a provider from one object; the environment is not read."""
        provider = cls.__new__(cls)
        provider._start(config)
        return provider

    @classmethod
    def from_client(cls, client: Redis, *, own: bool = False, timeout: float = 5.0) -> Self:
        """Make a provider around a client that exists; no I/O.

        Args:
            client: A `redis.asyncio.Redis`, with whatever pool, retries and decoding it has.
            own: Whether to close it when the provider is closed.
            timeout: Seconds within which every operation ends.
        """
        provider = cls.__new__(cls)
        provider._start(None, timeout=timeout)
        provider._client, provider._owns_client = client, own
        return provider

    def _start(
        self, config: RedisConfig | None, *, env_prefix: str = "", timeout: float = 5.0
    ) -> None:
        self.env_prefix = env_prefix
        self._config = config
        self._timeout = config.timeout if config else timeout
        self._client: Redis | None = None
        self._owns_client = config is not None
        self._entered = 0
        self._commands: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        """Where it connects to, the password masked; empty around a foreign client."""
        return masked(self._config.full_url()) if self._config else ""

    @property
    def timeout(self) -> float:
        """Seconds within which every operation ends."""
        return self._timeout

    @property
    def client(self) -> Redis:
        """The native client, made on first use."""
        if self._client is None:
            assert self._config is not None
            self._client = _make_client(self._config)
        return self._client

    async def __aenter__(self) -> Self:
        """Let commands through; the first one connects."""
        self._entered += 1
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """See the commands in flight end, then close the client, unless it is somebody else's."""
        self._entered -= 1
        if self._entered:
            return
        try:
            await self._drain()
        finally:
            await self._close_client()

    async def ping(self) -> float:
        """Ask the server for a sign of life; seconds that one round trip took."""
        started = perf_counter()
        await self.execute("PING", repeatable=True)
        return perf_counter() - started

    def cache(self, **kwargs: Any) -> "RedisCacheAdapter":
        """Make the cache adapter: `RedisCacheAdapter(provider=self, **kwargs)`."""
        from grelmicro.cache.redis import RedisCacheAdapter  # only who caches imports it

        return RedisCacheAdapter(provider=self, **kwargs)

    async def execute(self, *args: str | bytes | float, repeatable: bool = False) -> Any:
        """Send one command, and return its reply undecoded: the door of every adapter.

        A caller that is cancelled leaves at once; the command it sent is seen to its end all the
        same, so that no connection is left out of step.

        Args:
            args: The command and its arguments.
            repeatable: Whether the command may be sent again when its fate is unknown: reads may,
                writes may not.

        Raises:
            OutOfContextError: The provider is not open.
            TimeoutError: There was no answer within the provider's `timeout`.
            redis.exceptions.RedisError: The connection was lost, or the server refused.
        """
        if not self._entered:
            raise OutOfContextError(
                f"{self!r} is not open: list it in uses=[...] before what borrows it, or enter it"
            )
        command = asyncio.create_task(self._run(args, repeatable))
        self._commands.add(command)
        command.add_done_callback(self._ended)
        return await asyncio.shield(command)

    def _ended(self, command: asyncio.Task[Any]) -> None:
        self._commands.discard(command)
        if not command.cancelled():
            command.exception()  # whoever still waits has it; for nobody else is it news

    async def _run(self, args: tuple[Any, ...], repeatable: bool) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._repeat(args, repeatable)
        except (TimeoutError, RedisTimeoutError) as error:
            raise TimeoutError(f"{self!r} did not answer in time") from error

    async def _repeat(self, args: tuple[Any, ...], repeatable: bool) -> Any:
        for pause in _pauses(repeatable):
            try:
                return await self._send(args)
            except AuthenticationError:
                raise
            except (ConnectionError, RedisTimeoutError, OSError):
                await asyncio.sleep(pause)
        return await self._send(args)

    async def _send(self, args: tuple[Any, ...]) -> Any:
        options = {NEVER_DECODE: True}
        return await self.client.execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py's own

    async def _drain(self) -> None:
        """Wait for commands in flight, those of cancelled callers too; each has its deadline."""
        if self._commands:
            await asyncio.wait(self._commands)

    async def _close_client(self) -> None:
        if self._owns_client and self._client is not None:
            client = self._client
            if self._config is not None:
                self._client = None
            async with asyncio.timeout(self._timeout):
                await client.aclose()


def _pauses(repeatable: bool) -> Iterator[float]:
    for longest in _RETRIES if repeatable else ():
        yield random.uniform(longest / 2, longest)  # noqa: S311  # no secret


def _make_client(config: RedisConfig) -> Redis:
    options: dict[str, Any] = {
        "max_connections": config.max_connections,
        "timeout": config.timeout,
        "socket_timeout": config.timeout,
        "socket_connect_timeout": config.timeout,
        # With RESP3 redis-py 8 listens for notices of maintenance, and then sends commands on
        # connections that the server has closed: after a restart, a write would fail on each.
        "protocol": 2,
        **parse_url(config.full_url()),
        # A write whose reply was lost may have been done: repeating is up to `execute`.
        "retry": Retry(NoBackoff(), 0),
    }
    return Redis.from_pool(BlockingConnectionPool(**options))
