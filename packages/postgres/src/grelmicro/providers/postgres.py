"""The Postgres provider: one place that knows the server, and one door to it."""

import asyncio
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import asyncpg

from grelmicro._process import current
from grelmicro.errors import OutOfContextError
from grelmicro.providers._postgres_config import (
    PostgresConfig,
    PostgresProviderConfigError,
    resolve,
)
from grelmicro.providers._postgres_door import (
    NEVER,
    ClosedDoor,
    Door,
    OpenDoor,
    OutcomeUnknownError,
    PooledConnection,
)
from grelmicro.providers._provider import Provider
from grelmicro.providers._settings import masked

if TYPE_CHECKING:
    from grelmicro.cache.postgres import PostgresCacheAdapter
    from grelmicro.resilience.postgres import PostgresRateLimiterAdapter

    Pool = asyncpg.Pool[asyncpg.Record]

__all__ = [
    "OutcomeUnknownError",
    "PostgresConfig",
    "PostgresProvider",
    "PostgresProviderConfigError",
]


class PostgresProvider(Provider):
    """A Postgres server: its address, its pool of connections, and the life of both.

    Settings come from keywords, then from the environment, then from defaults, field by field.
    Opening makes the pool; nothing is connected before the first statement. Every operation ends
    within `timeout`.

    Behind PgBouncer in transaction mode, pass `statement_cache_size=0`: nothing else that goes
    through here depends on the session.

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
                our statements, as after everybody's, which takes another round trip.
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
        self._inherited.append(self._door)
        self._entered, self._door = 0, ClosedDoor(self)
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
        try:
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

    async def fetch(
        self,
        query: str,
        *args: object,
        repeatable: bool = False,
        deadline: float | None = None,
        shield: bool = True,
    ) -> list[asyncpg.Record]:
        """Run one statement, and return its rows: the door of every adapter.

        A caller that is cancelled leaves at once. Its statement may be done all the same. It must
        change nothing of the session: no SET, LISTEN, advisory lock or temporary table of it.

        Args:
            query: The statement.
            args: What `$1`, `$2` and so on stand for.
            repeatable: Whether the statement may be sent again when its fate is unknown: reads may,
                writes may not.
            deadline: When it has to be over, by the loop's clock; by default `timeout` from now.
            shield: False in a task that nobody cancels, which costs less.

        Raises:
            OutOfContextError: The provider is not open, or not on this event loop.
            TimeoutError: There was no result within the provider's `timeout`.
            OutcomeUnknownError: The connection was lost before the result; the statement may have
                been done.
            OSError: The server cannot be reached.
            asyncpg.PostgresError: The server refused.
        """
        rows: list[asyncpg.Record] = await self._door.run(
            lambda connection: connection.fetch(query, *args, timeout=NEVER),
            repeatable=repeatable,
            deadline=deadline,
            shield=shield,
        )
        return rows

    async def execute(
        self,
        query: str,
        *args: object,
        repeatable: bool = False,
        deadline: float | None = None,
        shield: bool = True,
    ) -> str:
        """Run one statement, and return what the server says of it, such as `DELETE 3`.

        Without `args` there may be several statements with `;` between: one transaction.

        Args:
            query: The statement; as in `fetch`, it must change nothing of the session.
            args: What `$1`, `$2` and so on stand for.
            repeatable: As in `fetch`.
            deadline: As in `fetch`.
            shield: As in `fetch`.

        Raises:
            Exception: As in `fetch`.
        """
        status: str = await self._door.run(
            lambda connection: connection.execute(query, *args, timeout=NEVER),
            repeatable=repeatable,
            deadline=deadline,
            shield=shield,
        )
        return status

    async def ping(self) -> float:
        """Ask the server for a sign of life; seconds that one round trip took."""
        started = perf_counter()
        await self.fetch("SELECT 1", repeatable=True)
        return perf_counter() - started

    def cache(self, **kwargs: Any) -> "PostgresCacheAdapter":
        """Make the cache adapter: `PostgresCacheAdapter(provider=self, **kwargs)`."""
        from grelmicro.cache.postgres import PostgresCacheAdapter  # only who caches imports it

        return PostgresCacheAdapter(provider=self, **kwargs)

    def ratelimiter(self, **kwargs: Any) -> "PostgresRateLimiterAdapter":
        """Make the rate limiter adapter: `PostgresRateLimiterAdapter(provider=self, **kwargs)`."""
        from grelmicro.resilience.postgres import (  # only who limits imports it
            PostgresRateLimiterAdapter,
        )

        return PostgresRateLimiterAdapter(provider=self, **kwargs)
