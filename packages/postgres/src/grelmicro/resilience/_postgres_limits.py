"""The rate limiter backend that keeps its quotas in Postgres."""

import functools
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import asyncpg

from grelmicro.errors import ResilienceSettingsValidationError
from grelmicro.providers._adapter import ProviderAdapter
from grelmicro.providers._postgres_batches import Batches
from grelmicro.providers._postgres_names import quoted_table
from grelmicro.providers._postgres_sweeps import Sweeper
from grelmicro.providers._postgres_tables import Table
from grelmicro.providers.postgres import PostgresProvider
from grelmicro.resilience._limits import RateLimitConfig
from grelmicro.resilience._postgres_limits_statements import Statements
from grelmicro.resilience._quotas import Quota, quota_of
from grelmicro.resilience._result import RateLimitResult

__all__ = ["PostgresRateLimiterAdapter", "PostgresStrategy"]

_LONGEST = 1000
"""Bytes of a key in the table; the index takes up to 2704."""


class _Question(NamedTuple):
    """What somebody asks."""

    key: bytes
    quota: Quota
    cost: int


class PostgresRateLimiterAdapter(ProviderAdapter[PostgresProvider]):
    """Rate limits on Postgres, in a table of its own, by the server's clock.

    What is asked in one iteration of the event loop, or while others are answered, travels in one
    call of a function on the server, in the order of the keys: no two calls block each other for
    good. Who asks also removes rows of idle keys, about once a minute.

    Table and function are made on first use; replicas that do so at once wait for each other. The
    table is UNLOGGED by default: a crash of the server gives everybody the full quota.

    Args:
        provider: The provider to borrow; by default one of its own, from the environment.
        env_prefix: What that environment's variables begin with.
        table_name: The table, or `schema.table`: ASCII letters, digits and `_`, up to 53 of them.
        prefix: What tells the quotas of this adapter from others' in one table; any text without
            a NUL, up to 200 characters.
        unlogged: Whether the table is made without a log.
        create_schema: Whether to make table and function when they are missing; `schema` has the
            statements.

    Raises:
        ResilienceSettingsValidationError: `table_name` or `prefix` cannot be used.
        PostgresProviderConfigError: The environment does not say where the server is.
    """

    def __init__(
        self,
        *,
        provider: PostgresProvider | None = None,
        env_prefix: str = "POSTGRES_",
        table_name: str = "ratelimits",
        prefix: str = "",
        unlogged: bool = True,
        create_schema: bool = True,
    ) -> None:
        try:
            table, index = quoted_table(table_name, suffix="_idle_from")
            function, _ = quoted_table(f"{table_name}_decide_1")
        except ValueError as error:
            raise ResilienceSettingsValidationError(str(error)) from None
        super().__init__(provider=provider, make=lambda: PostgresProvider(env_prefix=env_prefix))
        self._statements = Statements(table, index, function, unlogged=unlogged)
        self._table = Table(self._statements.schema, create=create_schema)
        self._prefix = _checked_prefix(prefix) + "\0"
        self._batches = Batches(self._decide)
        self._sweeper = Sweeper(self._statements.sweep)

    @property
    def schema(self) -> str:
        """The statements that make table and function, for those who do it by hand."""
        return self._table.schema

    async def closing(self) -> None:
        """End what runs in the background."""
        await self._sweeper.stop()

    def bind(self, config: RateLimitConfig) -> "PostgresStrategy":
        """The strategy of a configuration; what it knows is on the server."""
        quota = quota_of(config)
        return PostgresStrategy(self, f"{self._prefix}{quota.tag}:", quota)

    async def ask(self, key: bytes, quota: Quota, cost: int) -> RateLimitResult:
        """Decide, together with what others ask."""
        return await self._batches.ask(_Question(key, quota, cost))

    async def look(self, key: bytes) -> tuple[int, int, int]:
        """What is known of a key: an amount, its time, and the server's time now."""
        nothing: list[asyncpg.Record] = []
        rows = await self._table.or_nothing(
            lambda: self.provider.fetch(self._statements.look, key, repeatable=True), nothing
        )
        return (rows[0][0], rows[0][1], rows[0][2]) if rows else (0, 0, 0)

    async def forget(self, key: bytes) -> None:
        """Remove what is known of a key."""
        await self._table.or_nothing(
            lambda: self.provider.execute(self._statements.reset, key, repeatable=True), ""
        )

    async def _decide(
        self, questions: Sequence[_Question], asked: float
    ) -> Sequence[RateLimitResult]:
        """Answer questions: those of one key one after the other, as they came."""
        order = sorted(range(len(questions)), key=lambda number: questions[number].key)
        rows = await self._fetch([questions[number] for number in order], asked)
        answers = dict(zip(order, rows, strict=True))
        return [
            quota.result(answers[number][0], answers[number][1], answers[number][2], cost)
            for number, (_, quota, cost) in enumerate(questions)
        ]

    async def _fetch(self, questions: Sequence[_Question], asked: float) -> list[asyncpg.Record]:
        keys = [question.key for question in questions]
        numbers = [(*question.quota, question.cost) for question in questions]
        lasts = [key != following for key, following in zip(keys, [*keys[1:], None], strict=True)]
        columns = (keys, *map(list, zip(*numbers, strict=True)), lasts)
        fetch = functools.partial(
            self.provider.fetch,
            self._statements.decide,
            *columns,
            deadline=asked + self.provider.timeout,
            shield=False,  # in a batch, which nobody cancels
        )
        rows: list[asyncpg.Record] = await self._table.made(self.provider, fetch)
        self._sweeper.if_due(self.provider)
        return rows


class PostgresStrategy:
    """Decides by the function on the server.

    Args:
        adapter: What carries it.
        prefix: What the keys begin with.
        quota: The numbers to decide with.
    """

    def __init__(self, adapter: PostgresRateLimiterAdapter, prefix: str, quota: Quota) -> None:
        self._adapter = adapter
        self._prefix = prefix
        self._quota = quota

    async def acquire(self, *, key: str, cost: int) -> RateLimitResult:
        """Take permits if they are there."""
        return await self._adapter.ask(self._stored(key), self._quota, cost)

    async def peek(self, *, key: str, cost: int) -> RateLimitResult:
        """Tell what there is."""
        found = await self._adapter.look(self._stored(key))
        return self._quota.look(*self._quota.at(*found), cost)

    async def reset(self, *, key: str) -> None:
        """Remove what is known of the key."""
        await self._adapter.forget(self._stored(key))

    def _stored(self, key: str) -> bytes:
        """The key as it is; a long one with a digest of all of it, which no other has."""
        name = (self._prefix + key).encode()
        if len(name) < _LONGEST:
            return name
        digest = sha256(name).digest()
        return name[: _LONGEST - len(digest)] + digest


def _checked_prefix(prefix: str) -> str:
    if not isinstance(prefix, str) or "\0" in prefix or len(prefix) > 200:
        raise ResilienceSettingsValidationError(
            "prefix: expected a text of at most 200 characters without a NUL"
        )
    return prefix
