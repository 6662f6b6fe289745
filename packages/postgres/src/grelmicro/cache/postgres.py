"""The cache backend that keeps its entries in Postgres."""

import asyncio
import functools
from collections.abc import Mapping, Sequence

import asyncpg

from grelmicro.cache._postgres_keys import Stored, beyond, head, stored
from grelmicro.cache._postgres_statements import Statements
from grelmicro.errors import CacheSettingsValidationError
from grelmicro.providers._adapter import ProviderAdapter
from grelmicro.providers._postgres_batches import Batches
from grelmicro.providers._postgres_names import quoted_table
from grelmicro.providers._postgres_sweeps import Sweeper
from grelmicro.providers._postgres_tables import Table
from grelmicro.providers.postgres import PostgresProvider

__all__ = ["PostgresCacheAdapter"]

_SHORTEST_TTL = 0.001

_LONGEST_TTL = 1e11
"""Seconds, 3000 years: what the server's clock still has room for."""

_TOGETHER = 1000
"""Keys that one statement names at most."""

_HEAVIEST = 1 << 20
"""Bytes of values that one statement carries at most, unless one alone is bigger."""

_Entry = tuple[Stored, bytes, float]


class PostgresCacheAdapter(ProviderAdapter[PostgresProvider]):
    """A cache on Postgres, in a table of its own, by the server's clock.

    What is read in one iteration of the event loop travels in one statement, and so does what is
    stored. Who stores entries also removes some that have expired, about once a minute.

    The table is made on first use; replicas that do so at once wait for each other. It is UNLOGGED
    by default: a crash of the server empties it, a standby does not have it, and nothing of it goes
    to the log that everything else waits for. A cache may be lost; a logged table is for one that
    is expensive to fill again, and its stores are slower.

    Args:
        provider: The provider to borrow; by default one of its own, from the environment.
        env_prefix: What that environment's variables begin with.
        table_name: The table, or `schema.table`: ASCII letters, digits and `_`, up to 52 of them.
        prefix: What tells the entries of this adapter from others' in one table; any text without
            a NUL, up to 200 characters.
        unlogged: Whether the table is made without a log.
        create_schema: Whether to make the table when it is missing; `schema` has the statements.

    Raises:
        CacheSettingsValidationError: `table_name` or `prefix` cannot be used.
        PostgresProviderConfigError: The environment does not say where the server is.
    """

    def __init__(
        self,
        *,
        provider: PostgresProvider | None = None,
        env_prefix: str = "POSTGRES_",
        table_name: str = "cache",
        prefix: str = "",
        unlogged: bool = True,
        create_schema: bool = True,
    ) -> None:
        try:
            names = quoted_table(table_name, suffix="_expires_at")
        except ValueError as error:
            raise CacheSettingsValidationError(str(error)) from None
        super().__init__(provider=provider, make=lambda: PostgresProvider(env_prefix=env_prefix))
        self._statements = Statements(*names, unlogged=unlogged)
        self._table = Table(self._statements.schema, create=create_schema)
        self._prefix = _checked_prefix(prefix).encode() + b"\0"
        self._reads = Batches(self._read)
        self._writes = Batches(self._write, weigh=lambda entry: len(entry[1]), heaviest=_HEAVIEST)
        self._sweeper = Sweeper(self._statements.sweep)

    @property
    def schema(self) -> str:
        """The statements that make the table, for those who do it by hand."""
        return self._table.schema

    async def closing(self) -> None:
        """End what runs in the background."""
        await self._sweeper.stop()

    async def get(self, *, key: str) -> bytes | None:
        """Get the bytes under `key`; None when there are none, or they have expired."""
        return await self._reads.ask(self._stored(key)[0])

    async def get_with_ttl(self, *, key: str) -> tuple[bytes, float] | None:
        """Get the bytes and the seconds they will live; None when there are none."""
        rows = await self._fetch(self._statements.get_with_ttl, [self._stored(key)[0]])
        return (rows[0][1], max(0.0, rows[0][2])) if rows else None

    async def get_many(self, *, keys: Sequence[str]) -> Mapping[str, bytes]:
        """Get what there is under `keys`: a round trip for each thousand of them."""
        names = {self._stored(key)[0]: key for key in keys}
        rows = [
            row
            for group in _groups([*names], _TOGETHER)
            for row in await self._fetch(self._statements.get, group)
        ]
        return {names[row[0]]: row[1] for row in rows}

    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        """Store bytes for `ttl` seconds."""
        await self._writes.ask((self._stored(key), _checked_value(value), _seconds(ttl)))

    async def set_many(self, *, entries: Mapping[str, bytes], ttl: float) -> None:
        """Store every entry for `ttl` seconds: a statement for each megabyte."""
        life = _seconds(ttl)
        group: list[_Entry] = []
        weight = 0
        for key, value in entries.items():
            weight += len(value)
            if group and (weight > _HEAVIEST or len(group) == _TOGETHER):
                await self._store(group)
                group, weight = [], len(value)
            group.append((self._stored(key), _checked_value(value), life))
        if group:
            await self._store(group)

    async def touch(self, *, key: str, ttl: float) -> bool:
        """Let an entry live `ttl` seconds from now; False when there is none."""
        status = await self._table.or_nothing(
            lambda: self.provider.execute(
                self._statements.touch, self._stored(key)[0], _seconds(ttl)
            ),
            "UPDATE 0",
        )
        return status != "UPDATE 0"

    async def delete(self, *, key: str) -> None:
        """Delete a key; nothing happens when it is absent."""
        await self.delete_many(keys=[key])

    async def delete_many(self, *, keys: Sequence[str]) -> None:
        """Delete every key that is there: a round trip for each thousand of them."""
        for group in _groups([self._stored(key)[0] for key in keys], _TOGETHER):
            await self._delete(group)

    async def _delete(self, names: Sequence[bytes]) -> None:
        await self._table.or_nothing(
            lambda: self.provider.execute(self._statements.delete, names), ""
        )

    async def clear(self, *, prefix: str = "") -> None:
        """Remove the entries whose key begins with `prefix`; all of the adapter's by default.

        They go a thousand at a time, so that others are served meanwhile; entries that are stored
        then may stay.
        """
        beginning = self._prefix + prefix.encode()
        end = beyond(beginning)
        first, last = head(beginning), beyond(head(beginning))
        while rows := await self._cleared(first, last, beginning, end):
            first = max(row[0] for row in rows) + b"\0"  # the next bytes in order

    async def _cleared(self, *borders: bytes) -> list[asyncpg.Record]:
        return await self._table.or_nothing(
            lambda: self.provider.fetch(self._statements.clear, *borders), []
        )

    def _stored(self, key: str) -> Stored:
        return stored(self._prefix + key.encode())

    async def _fetch(self, query: str, names: Sequence[bytes]) -> list[asyncpg.Record]:
        return await self._table.or_nothing(
            lambda: self.provider.fetch(query, names, repeatable=True), []
        )

    async def _read(self, names: Sequence[bytes], asked: float) -> list[bytes | None]:
        deadline = asked + self.provider.timeout
        is_one = len(names) == 1
        query = self._statements.get_one if is_one else self._statements.get
        wanted = names[0] if is_one else [*dict.fromkeys(names)]
        rows: list[asyncpg.Record] = await self._table.or_nothing(
            lambda: self.provider.fetch(
                query, wanted, repeatable=True, deadline=deadline, shield=False
            ),
            [],
        )
        found: dict[bytes, bytes] = {row[0]: row[1] for row in rows}
        return [found.get(name) for name in names]

    async def _write(self, entries: Sequence[_Entry], asked: float) -> list[None]:
        await self._store(entries, asked)
        return [None] * len(entries)

    async def _store(self, entries: Sequence[_Entry], asked: float | None = None) -> None:
        """Store entries in one statement, the last of each name, in the order of the names."""
        last = {entry[0][0]: entry for entry in entries}
        rows = [last[name] for name in sorted(last)]
        columns = (
            [name for (name, _), _, _ in rows],
            [whole for (_, whole), _, _ in rows],
            [value for _, value, _ in rows],
            [life for _, _, life in rows],
        )

        now = asyncio.get_running_loop().time()
        ask = functools.partial(
            self.provider.execute,
            deadline=(now if asked is None else asked) + self.provider.timeout,
            shield=asked is None,  # else in a batch
        )
        await self._table.made(self.provider, lambda: ask(self._statements.set, *columns))
        self._sweeper.if_due(self.provider)


def _checked_prefix(prefix: str) -> str:
    if not isinstance(prefix, str) or "\0" in prefix or len(prefix) > 200:
        raise CacheSettingsValidationError(
            "prefix: expected a text of at most 200 characters without a NUL"
        )
    return prefix


def _groups(names: Sequence[bytes], most: int) -> list[Sequence[bytes]]:
    return [names[start : start + most] for start in range(0, len(names), most)]


def _checked_value(value: bytes) -> bytes:
    """Return the value: what the driver refuses would be refused to all who travel with it."""
    if not isinstance(value, bytes):
        raise TypeError(f"value: expected bytes, not {type(value).__name__}")
    return value


def _seconds(ttl: float) -> float:
    return min(max(_SHORTEST_TTL, ttl), _LONGEST_TTL)
