"""The synchronization backend that keeps its leases in Postgres."""

import asyncio
from collections.abc import Awaitable
from functools import partial
from hashlib import sha256

import asyncpg

from grelmicro.errors import SyncSettingsValidationError
from grelmicro.providers._adapter import ProviderAdapter
from grelmicro.providers._postgres_names import quoted_table
from grelmicro.providers._postgres_sweeps import SWEEP_ROWS, Sweeper
from grelmicro.providers._postgres_tables import Table
from grelmicro.providers.postgres import PostgresProvider
from grelmicro.sync._local import local_of
from grelmicro.sync._postgres_statements import Statements
from grelmicro.sync._waiters import GRACE, Waiters

__all__ = ["PostgresSyncAdapter"]

_LONGEST = 1000
"""Bytes of a name that is stored as it is; an index takes at most 2704."""

_LONGEST_LEASE = 1e11
"""Seconds, 3000 years: what the server's clock still has room for."""


class PostgresSyncAdapter(ProviderAdapter[PostgresProvider]):
    """Locks on Postgres, in a table of its own, by the server's clock.

    Every operation is one statement, and nobody who holds or waits keeps a connection. A row has a
    lock's name, its holder's token, its fencing token and its end. Who waits is told by a message
    (NOTIFY) when the lock is given back, over one connection of the provider's that is not of the
    pool; where none can be had, waiters look every `retry_interval`.

    The table has a log: a lock that was granted survives a crash of the server. A standby that is
    promoted knows what was replicated to it; ask for synchronous replication where that matters.
    Rows that were not used for an hour are removed by those who take locks.

    Args:
        provider: The provider to borrow; by default one of its own, from the environment.
        env_prefix: What that environment's variables begin with.
        table_name: The table, or `schema.table`: ASCII letters, digits and `_`, up to 55 of them.
        create_schema: Whether to make the table when it is missing; `schema` has the statements.

    Raises:
        SyncSettingsValidationError: `table_name` cannot be used.
        PostgresProviderConfigError: The environment does not say where the server is.
    """

    def __init__(
        self,
        *,
        provider: PostgresProvider | None = None,
        env_prefix: str = "POSTGRES_",
        table_name: str = "locks",
        create_schema: bool = True,
    ) -> None:
        try:
            table, _ = quoted_table(table_name, suffix="_fencing")
        except ValueError as error:
            raise SyncSettingsValidationError(str(error)) from None
        super().__init__(provider=provider, make=lambda: PostgresProvider(env_prefix=env_prefix))
        self._channel = f"{table_name.rpartition('.')[2]}_freed"
        self._statements = Statements(
            table,
            f'{table[:-1]}_fencing"',
            channel=self._channel,
            grace=GRACE,
            rows=SWEEP_ROWS,
        )
        self._table = Table(self._statements.schema, create=create_schema)
        self._sweeper = Sweeper(self._statements.sweep, seconds=600)
        self._grants: dict[str, set[asyncio.Task[int]]] = {}
        """What is under way that may give a token the lease; a release has to come after it."""
        self._waiters = Waiters(
            listen=lambda _: self.provider.listen(self._channel, self._heard),
            enlist=lambda name: self._place(self._statements.enlist, name),
            delist=lambda name: self._place(self._statements.delist, name),
            unlisten=lambda _: None,  # all names are of one channel
            locked=lambda name: self.locked(name=name),
        )

    @property
    def schema(self) -> str:
        """The statements that make the table, for those who do it by hand."""
        return self._table.schema

    async def closing(self) -> None:
        """End what runs in the background."""
        try:
            await local_of(self).settle()
        finally:
            self._waiters.close()
            self.provider.unlisten(self._channel, self._heard)
            await self._sweeper.stop()

    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        """Take or extend the lease; its fencing token, 0 when somebody else holds it."""
        number = await self._granted(
            token, self._statements.acquire, name, token, _lease(duration), self._waiters.id
        )
        self._sweeper.if_due(self.provider)
        return number

    async def hand_over(self, *, name: str, token: str, to: str, duration: float) -> int:
        """Release and acquire in one step; the new fencing token, 0 when `token` has no lease."""
        return await self._granted(
            to, self._statements.hand_over, name, token, to, _lease(duration)
        )

    async def _granted(self, token: str, query: str, name: str, *args: str | float) -> int:
        """What is granted to a token; seen to its end, though the caller may leave."""
        grant = asyncio.create_task(self._number(query, name, *args))
        self._grants.setdefault(token, set()).add(grant)
        grant.add_done_callback(partial(self._ended, token))
        return await asyncio.shield(grant)

    def _ended(self, token: str, grant: asyncio.Task[int]) -> None:
        self._grants[token].discard(grant)
        if not self._grants[token]:
            del self._grants[token]
        if not grant.cancelled():
            grant.exception()  # whoever has left does not want to know

    async def _number(self, query: str, name: str, *args: str | float) -> int:
        rows = await self._table.made(
            self.provider,  # the same token again gets the same answer
            lambda: self.provider.fetch(query, _stored(name), *args, repeatable=True, shield=False),
        )
        return rows[0][0] if rows else 0

    async def release(self, *, name: str, token: str) -> bool:
        """Give the lease back; False when `token` does not hold it.

        What was asked for the token before has its answer first: connections overtake each other.
        """
        deadline = None
        if grants := self._grants.get(token):
            deadline = asyncio.get_running_loop().time() + self.provider.timeout
            await asyncio.wait(grants, timeout=self.provider.timeout)
        key = _stored(name)
        useless = self._waiters.unless_waiting(key)
        return await self._is_any(self._statements.release, key, token, useless, deadline=deadline)

    async def locked(self, *, name: str) -> bool:
        """Whether anybody holds the lease."""
        return await self._is_any(self._statements.locked, _stored(name), repeatable=True)

    async def owned(self, *, name: str, token: str) -> bool:
        """Whether `token` holds the lease."""
        return await self._is_any(self._statements.owned, _stored(name), token, repeatable=True)

    async def _is_any(
        self, query: str, *args: str, repeatable: bool = False, deadline: float | None = None
    ) -> bool:
        def ask() -> Awaitable[list[asyncpg.Record]]:
            return self.provider.fetch(query, *args, repeatable=repeatable, deadline=deadline)

        return bool(await self._table.or_nothing(ask, []))

    async def wait(self, *, name: str, timeout: float) -> None:
        """Wait until the lease may be free, for `timeout` seconds at most."""
        await self._waiters.wait(_stored(name), timeout)

    def _heard(self, payload: bytes | None) -> None:
        if payload is None:
            self._waiters.missed()
        else:
            whom, _, name = payload.decode().partition(" ")
            self._waiters.heard(name, whom)

    async def _place(self, query: str, stored: str) -> None:
        await self._table.or_nothing(
            lambda: self.provider.execute(query, stored, self._waiters.id, repeatable=True), ""
        )


def _lease(duration: float) -> float:
    return min(float(duration), _LONGEST_LEASE)


def _stored(name: str) -> str:
    """How a name is stored: as it is, or its beginning with a digest of all of it.

    A name as it is has at most `_LONGEST` bytes, and the other form has more: no two meet.
    """
    whole = name.encode()
    if len(whole) <= _LONGEST:
        return name
    return whole[: _LONGEST + 3].decode(errors="ignore") + sha256(whole).hexdigest()
