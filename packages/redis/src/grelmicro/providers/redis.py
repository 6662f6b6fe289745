"""The Redis provider: one place that knows the server, and one door to it."""

import asyncio
from collections.abc import Callable
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import PubSub

from grelmicro._process import current
from grelmicro.errors import OutOfContextError
from grelmicro.providers._provider import Provider
from grelmicro.providers._redis_calls import Commands
from grelmicro.providers._redis_client_door import ClientDoor
from grelmicro.providers._redis_clients import close_client, make_client, make_node_client
from grelmicro.providers._redis_config import RedisConfig, RedisProviderConfigError, resolve
from grelmicro.providers._redis_connection import OutcomeUnknownError
from grelmicro.providers._redis_door import ClosedDoor, Door, OpenDoor
from grelmicro.providers._redis_listener import Heard, Listener
from grelmicro.providers._redis_open import multiplexed
from grelmicro.providers._redis_scripts import RedisScript
from grelmicro.providers._settings import masked

if TYPE_CHECKING:
    from grelmicro.cache.redis import RedisCacheAdapter
    from grelmicro.resilience.redis import RedisCircuitBreakerAdapter, RedisRateLimiterAdapter
    from grelmicro.sync.redis import RedisSyncAdapter

__all__ = [
    "OutcomeUnknownError",
    "RedisConfig",
    "RedisProvider",
    "RedisProviderConfigError",
    "RedisScript",
]


class RedisProvider(Commands, Provider):
    """A Redis or Valkey server: its address, its client, and the life of both.

    Settings come from keywords, then from the environment, then from defaults, field by field.
    Nothing is connected before the first command. Every operation ends within `timeout`.

    Args:
        url: `redis://`, `rediss://` (TLS), `unix://`, `redis+sentinel://host1,host2/service/db` or
            `redis+cluster://host1,host2`; it excludes the five fields below.
        host: The server's name or address.
        port: Its port, 6379 by default.
        db: The number of the database, 0 by default.
        username: For servers with access control lists.
        password: Shown nowhere.
        env_prefix: What the variables URL, or HOST, PORT, DB, USER, PASSWORD begin with.
        env_load: Whether to read the environment at all.
        timeout: Seconds within which every operation ends, 5 by default.
        max_connections: Most connections of `client`, 64 by default; further commands wait there.
        multiplex: By default all callers share a connection of our own, and what is asked in one
            iteration of the event loop travels together. False sends commands through `client`.
        connections: Most connections of our own to one server, 2 by default. The second is made
            when the first has no room, or a big reply is coming in.

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
        multiplex: bool | None = None,
        connections: int | None = None,
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
            "multiplex": multiplex,
            "connections": connections,
        }
        self._start(resolve(given, env_prefix=env_prefix, env_load=env_load), env_prefix=env_prefix)

    @classmethod
    def from_config(cls, config: RedisConfig) -> Self:
        """Make a provider from one object; the environment is not read."""
        provider = cls.__new__(cls)
        provider._start(config)
        return provider

    @classmethod
    def from_client(
        cls, client: Redis | RedisCluster, *, own: bool = False, timeout: float = 5.0
    ) -> Self:
        """Make a provider around a client that exists; no I/O.

        Args:
            client: A `redis.asyncio.Redis` or `RedisCluster`, with whatever pool, retries and
                decoding it has. All commands go through it.
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
        self._topology = config.topology if config else None
        self._timeout = config.timeout if config else timeout
        self._client: Redis | RedisCluster | None = None
        self._owns_client = config is not None
        self._entered = 0
        self._process = current.id
        self._inherited: list[object] = []
        self._door: Door = ClosedDoor(self)
        self._listener: Listener | None = None

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
        """The native client, made on first use; of a cluster, a `redis.asyncio.RedisCluster`."""
        if self._client is None:
            assert self._config is not None
            self._client = make_client(
                self._config.topology,
                timeout=self._timeout,
                max_connections=self._config.max_connections,
            )
        return cast("Redis", self._client)

    async def __aenter__(self) -> Self:
        """Let commands through; the first one connects.

        Raises:
            OutOfContextError: It is open on another event loop.
        """
        self._leave_to_the_parent()
        if isinstance(self._door, OpenDoor) and self._door.loop is not asyncio.get_running_loop():
            if not self._door.loop.is_closed():
                raise OutOfContextError(f"{self!r} is open on another event loop")
            self._forget()
        if not self._entered:
            self._door = self._make_door()
        self._entered += 1
        return self

    def _make_door(self) -> Door:
        if self._config is None or not self._config.multiplex:
            return ClientDoor(self, self._timeout, self.client)
        return multiplexed(self, self._config)

    def _leave_to_the_parent(self) -> None:
        """In a forked child, begin anew: what is open is the parent's."""
        if self._process != current.id:
            self._process = current.id
            self._forget()

    def _forget(self) -> None:
        """Be closed, without touching a socket; nothing of it is finalised before the end."""
        self._inherited.append(self._door)
        self._inherited.append(self._listener)
        self._entered, self._door, self._listener = 0, ClosedDoor(self), None
        if self._config is not None:
            self._inherited.append(self._client)
            self._client = None

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
        door, self._door = self._door, ClosedDoor(self)
        listener, self._listener = self._listener, None
        try:
            if listener is not None:
                await listener.close()
            await door.close()
        finally:
            await self._close_client()

    async def _close_client(self) -> None:
        if self._owns_client and self._client is not None:
            client = self._client
            if self._config is not None:
                self._client = None
            async with asyncio.timeout(self._timeout):
                await close_client(client)

    async def ping(self) -> float:
        """Ask the server for a sign of life; seconds that one round trip took."""
        started = perf_counter()
        await self.execute("PING", repeatable=True)
        return perf_counter() - started

    def cache(self, **kwargs: Any) -> "RedisCacheAdapter":
        """Make the cache adapter: `RedisCacheAdapter(provider=self, **kwargs)`."""
        from grelmicro.cache.redis import RedisCacheAdapter  # only who caches imports it

        return RedisCacheAdapter(provider=self, **kwargs)

    def sync(self, **kwargs: Any) -> "RedisSyncAdapter":
        """Make the synchronization adapter: `RedisSyncAdapter(provider=self, **kwargs)`."""
        from grelmicro.sync.redis import RedisSyncAdapter  # only who locks imports it

        return RedisSyncAdapter(provider=self, **kwargs)

    def ratelimiter(self, **kwargs: Any) -> "RedisRateLimiterAdapter":
        """Make the rate limiter adapter: `RedisRateLimiterAdapter(provider=self, **kwargs)`."""
        from grelmicro.resilience.redis import RedisRateLimiterAdapter  # only who limits imports it

        return RedisRateLimiterAdapter(provider=self, **kwargs)

    def breaker(self, **kwargs: Any) -> "RedisCircuitBreakerAdapter":
        """Make the breaker adapter: `RedisCircuitBreakerAdapter(provider=self, **kwargs)`."""
        from grelmicro.resilience.redis import RedisCircuitBreakerAdapter  # see ratelimiter

        return RedisCircuitBreakerAdapter(provider=self, **kwargs)

    def listen(self, channel: str, heard: Heard) -> bool:
        """Call `heard` with each message that is published on a channel.

        It is called with None, too, when it listens from now on and after a lost connection: what
        was published before may have been missed.

        Args:
            channel: The channel's name.
            heard: A plain function that does not wait; a second time, it is not added again.

        Returns:
            False where nothing can be heard: around the client of a foreign cluster.

        Raises:
            OutOfContextError: The provider is not open, or not on this event loop.
        """
        self._door.check_here()
        if self._listener is None and (make := self._make_pubsub()):
            self._listener = Listener(make)
        if self._listener is None:
            return False
        self._listener.add(channel, heard)
        return True

    def unlisten(self, channel: str, heard: Heard) -> None:
        """Call it no more."""
        if self._listener is not None:
            self._listener.remove(channel, heard)

    def _make_pubsub(self) -> Callable[[], PubSub] | None:
        """What makes subscriptions: of a cluster, any node will do."""
        if not self.is_cluster:
            return self.client.pubsub
        if self._topology is None:
            return None
        topology, timeout = self._topology, self._timeout
        return lambda: make_node_client(topology, timeout=timeout).pubsub()

    @property
    def is_cluster(self) -> bool:
        """Whether keys are spread over the servers of a cluster."""
        if self._topology is not None:
            return self._topology.kind == "cluster"
        return isinstance(self._client, RedisCluster)
