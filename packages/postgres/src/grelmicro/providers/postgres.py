"""The Postgres provider: one place that knows the server, and one door to it."""

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import asyncpg

from grelmicro._process import current
from grelmicro.errors import OutOfContextError
from grelmicro.providers._postgres_calls import Calls
from grelmicro.providers._postgres_config import (
    PostgresConfig,
    PostgresProviderConfigError,
    resolve,
)
from grelmicro.providers._postgres_door import (
    ClosedDoor,
    Door,
    OpenDoor,
    OutcomeUnknownError,
    PooledConnection,
)
from grelmicro.providers._postgres_listener import Heard, Listener
from grelmicro.providers._provider import Provider
from grelmicro.providers._settings import masked

if TYPE_CHECKING:
    from grelmicro.cache.postgres import PostgresCacheAdapter
    from grelmicro.resilience.postgres import (
        PostgresCircuitBreakerAdapter,
        PostgresRateLimiterAdapter,
    )
    from grelmicro.sync.postgres import PostgresSyncAdapter

    Connection = asyncpg.Connection[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]

__all__ = [
    "OutcomeUnknownError",
    "PostgresConfig",
    "PostgresProvider",
    "PostgresProviderConfigError",
]


class PostgresProvider(Calls, Provider):
    """A Postgres server: its address, its pool of connections, and the life of both.

    Settings come from keywords, then from the environment, then from defaults, field by field.
    Opening makes the pool; nothing is connected before the first statement. Every operation ends
    within `timeout`.

    Behind PgBouncer in transaction mode, pass `statement_cache_size=0, listen=False`: nothing else
    that goes through here depends on the session.

    Args:
        url: `postgresql://user:password@host:5432/database`; it excludes the five fields below.
            `postgres://` and a driver's name, as in `postgresql+asyncpg://`, are fine.
        host: The server's name or address, or the folder of its socket.
        port: Its port, 5432 by default.
        database: The database; by default the one named like the user.
        user: Who logs in; by default who runs this process.
        password: Shown nowhere.
        env_prefix: What the variables URL, or HOST, PORT, DB, USER, PASSWORD begin with.
        env_load: Whether to read the environment at all.
        timeout: Seconds within which every operation ends, 5 by default; the ones of `client` can
            be given their own.
        max_connections: Most connections of the pool, 10 by default; further operations wait.
        statement_cache_size: Most statements that stay prepared on a connection, 100 by default.
        listen: Whether to hear messages of other processes, over one connection of its own, made
            when somebody first listens. Without them, who waits looks from time to time.

    Raises:
        PostgresProviderConfigError: A setting cannot be used, or there is no server to connect to.
    """

    short_name = "postgres"

    def __init__(
        self,
        url: object | None = None,
        *,
        host: str | None = None,
        port: int | None = None,
        database: str | None = None,
        user: str | None = None,
        password: str | None = None,
        env_prefix: str = "POSTGRES_",
        env_load: bool = True,
        timeout: float | None = None,
        max_connections: int | None = None,
        statement_cache_size: int | None = None,
        listen: bool | None = None,
    ) -> None:
        given = {
            "url": url,
            "host": host,
            "port": port,
            "database": database,
            "user": user,
            "password": password,
            "timeout": timeout,
            "max_connections": max_connections,
            "statement_cache_size": statement_cache_size,
            "listen": listen,
        }
        self._start(resolve(given, env_prefix=env_prefix, env_load=env_load), env_prefix=env_prefix)

    @classmethod
    def from_config(cls, config: PostgresConfig) -> Self:
        """Make a provider from one object; the environment is not read."""
        provider = cls.__new__(cls)
        provider._start(config)
        return provider

    @classmethod
    def from_client(cls, pool: "Pool", *, own: bool = False, timeout: float = 5.0) -> Self:
        """Make a provider around a pool that exists; no I/O.

        Args:
            pool: A pool of asyncpg, with whatever connections it has. They are reset after each of
                our statements, as after everybody's, which takes another round trip. None of them
                is kept for hearing messages: who waits looks from time to time.
            own: Whether to close it when the provider is closed.
            timeout: Seconds within which every operation ends.
        """
        provider = cls.__new__(cls)
        provider._start(None, timeout=timeout)
        provider._pool, provider._owns_pool = pool, own
        return provider

    def _start(
        self, config: PostgresConfig | None, *, env_prefix: str = "", timeout: float = 5.0
    ) -> None:
        self.env_prefix = env_prefix
        self._config = config
        self._timeout = config.timeout if config else timeout
        self._pool: Pool | None = None
        self._owns_pool = config is not None
        self._entered = 0
        self._process = current.id
        self._inherited: list[object] = []
        self._door: Door = ClosedDoor(self)
        self._listener: Listener | None = None

    @property
    def url(self) -> str:
        """Where it connects to, the password masked; empty around a foreign pool."""
        return masked(self._config.full_url()) if self._config else ""

    @property
    def timeout(self) -> float:
        """Seconds within which every operation ends."""
        return self._timeout

    @property
    def client(self) -> "Pool":
        """The pool of asyncpg.

        Raises:
            OutOfContextError: The provider is not open, so there is no pool yet.
        """
        if self._pool is None or self._process != current.id:
            ClosedDoor(self).refuse()
        return self._pool

    async def __aenter__(self) -> Self:
        """Make the pool and let statements through; the first one connects.

        Raises:
            OutOfContextError: It is open on another event loop.
        """
        self._leave_to_the_parent()
        if isinstance(self._door, OpenDoor) and self._door.loop is not asyncio.get_running_loop():
            if not self._door.loop.is_closed():
                raise OutOfContextError(f"{self!r} is open on another event loop")
            self._forget()
        if not self._entered:
            self._door = OpenDoor(self, await self._opened(), self._timeout)
        self._entered += 1
        return self

    async def _opened(self) -> "Pool":
        if self._config is not None:
            self._pool = asyncpg.create_pool(
                **self._config.address.keywords(),
                min_size=0,
                max_size=self._config.max_connections,
                timeout=self._timeout,
                command_timeout=self._timeout,
                statement_cache_size=self._config.statement_cache_size,
                connection_class=PooledConnection,
            )
        assert self._pool is not None
        if self._owns_pool:  # a pool that was made and not opened yet will do
            async with asyncio.timeout(self._timeout):
                await self._pool
        return self._pool

    def _leave_to_the_parent(self) -> None:
        """In a forked child, begin anew: what is open is the parent's."""
        if self._process != current.id:
            self._process = current.id
            self._forget()

    def _forget(self) -> None:
        """Be closed, without touching a socket; nothing of it is finalised before the end."""
        self._inherited += [self._door, self._listener]
        self._entered, self._door, self._listener = 0, ClosedDoor(self), None
        if self._config is not None:
            self._inherited.append(self._pool)
            self._pool = None

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """See the statements in flight end, then close the pool, unless it is somebody else's."""
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
            await self._close_pool()

    async def _close_pool(self) -> None:
        """Close the pool as soon as all connections are back; in the end without them."""
        if not self._owns_pool or self._pool is None:
            return
        pool = self._pool
        if self._config is not None:
            self._pool = None
        try:
            async with asyncio.timeout(self._timeout):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    @classmethod
    def ddl(cls) -> str:
        """The statements that make the tables of all adapters, under their default names.

        For those who pass `create_schema=False`; an adapter's own `schema` is for other names.
        """
        nowhere = cls("postgresql://nowhere", env_load=False)
        adapters = nowhere.cache(), nowhere.sync(), nowhere.ratelimiter(), nowhere.breaker()
        return "\n".join(adapter.schema for adapter in adapters)

    def cache(self, **kwargs: Any) -> "PostgresCacheAdapter":
        """Make the cache adapter: `PostgresCacheAdapter(provider=self, **kwargs)`."""
        from grelmicro.cache.postgres import PostgresCacheAdapter  # only who caches imports it

        return PostgresCacheAdapter(provider=self, **kwargs)

    def sync(self, **kwargs: Any) -> "PostgresSyncAdapter":
        """Make the adapter of locks: `PostgresSyncAdapter(provider=self, **kwargs)`."""
        from grelmicro.sync.postgres import PostgresSyncAdapter  # only who locks imports it

        return PostgresSyncAdapter(provider=self, **kwargs)

    def ratelimiter(self, **kwargs: Any) -> "PostgresRateLimiterAdapter":
        """Make the rate limiter adapter: `PostgresRateLimiterAdapter(provider=self, **kwargs)`."""
        from grelmicro.resilience.postgres import (  # only who limits imports it
            PostgresRateLimiterAdapter,
        )

        return PostgresRateLimiterAdapter(provider=self, **kwargs)

    def breaker(self, **kwargs: Any) -> "PostgresCircuitBreakerAdapter":
        """Make the breaker adapter: `PostgresCircuitBreakerAdapter(provider=self, **kwargs)`."""
        from grelmicro.resilience.postgres import (  # see ratelimiter
            PostgresCircuitBreakerAdapter,
        )

        return PostgresCircuitBreakerAdapter(provider=self, **kwargs)

    def listen(self, channel: str, heard: Heard) -> bool:
        """Call `heard` with each message that is sent on a channel, as by `pg_notify`.

        It is called with None, too, when it listens from now on and after a lost connection: what
        was sent before may have been missed.

        Args:
            channel: The channel's name, at most 63 bytes.
            heard: A plain function that does not wait; a second time, it is not added again.

        Returns:
            False where nothing can be heard: around a foreign pool, and with `listen=False`.

        Raises:
            OutOfContextError: The provider is not open.
        """
        if self._config is None or not self._config.listen:
            return False
        if not isinstance(self._door, OpenDoor):
            ClosedDoor(self).refuse()
        self._door.check()
        if self._listener is None:
            self._listener = Listener(self._connect, timeout=self._timeout)
        self._listener.add(channel, heard)
        return True

    def unlisten(self, channel: str, heard: Heard) -> None:
        """Call it no more."""
        if self._listener is not None:
            self._listener.remove(channel, heard)

    async def _connect(self) -> "Connection":
        """Make a connection that is not the pool's."""
        assert self._config is not None
        return await asyncpg.connect(
            **self._config.address.keywords(), timeout=self._timeout, statement_cache_size=0
        )
