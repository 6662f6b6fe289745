"""The circuit breaker backend that keeps its state in Postgres."""

from collections.abc import Iterable, Sequence
from typing import Self

import asyncpg

from grelmicro.errors import ResilienceSettingsValidationError
from grelmicro.providers._adapter import ProviderAdapter
from grelmicro.providers._postgres_names import quoted_table
from grelmicro.providers._postgres_sweeps import Sweeper
from grelmicro.providers._postgres_tables import Table
from grelmicro.providers.postgres import PostgresProvider
from grelmicro.resilience._breaker_config import CircuitBreakerConfig
from grelmicro.resilience._circuit import Circuit
from grelmicro.resilience._fleet import Fleet
from grelmicro.resilience._numbers import check_lease, numbers_of
from grelmicro.resilience._postgres_breakers_statements import Statements
from grelmicro.resilience._reports import STATES, Answer, Record, Report

__all__ = ["PostgresCircuitBreakerAdapter"]

_KEEP = 3600
"""Seconds for which a circuit is remembered that nobody reports of."""

_UNKNOWN = Record.of(0, 0, 0, 0, 0)


class PostgresCircuitBreakerAdapter(ProviderAdapter[PostgresProvider]):
    """Circuit breakers that all replicas share, on Postgres, with the server's own clock.

    A breaker is one row. What happens in a process takes effect there at once, and is reported in
    the background:

    - An error at once, together with those that happen meanwhile. A success only when it follows an
      error of this process: it ends the fleet's row of errors. So errors of several replicas add up
      as long as none of these replicas has a success in between.
    - Where rates count, what calls became, a quarter of a second after the first of them. The
      fleet's window is made of ten parts: of so many calls each, or of so much time. The breaker
      opens when the rate of the process, or of the fleet, is too high.
    - Permits of a half-open breaker are granted by the server, so many in the whole fleet. A
      replica renews those it holds; when it dies, they are free after `permit_lease`.

    Other replicas are notified of a change, and look at once. One that missed it, as its connection
    was lost, sees it within 5 seconds, or within half a second where no messages are heard.
    Successful calls of a closed breaker have nothing to wait for and nothing to send, unless rates
    count.

    While the server cannot be asked, each process goes by what it knows, and says so once in the
    log; what it opened meanwhile, it reports then. Breakers that nobody reports of are removed
    after an hour by those who report others, except forced ones.

    Table and function are made when there is first something to report; replicas that do so at once
    wait for each other.

    Args:
        provider: The provider to borrow; by default one of its own, from the environment.
        env_prefix: What that environment's variables begin with.
        table_name: The table, or `schema.table`: ASCII letters, digits and `_`, up to 51 of them.
        permit_lease: Seconds after which the permits of a replica that died are free, from 0.1 to a
            day. A replica whose event loop stands still for as long loses them, too.
        create_schema: Whether to make table and function when they are missing; `schema` has the
            statements.

    Raises:
        ResilienceSettingsValidationError: `table_name` or `permit_lease` cannot be used.
        PostgresProviderConfigError: The environment does not say where the server is.
    """

    def __init__(
        self,
        *,
        provider: PostgresProvider | None = None,
        env_prefix: str = "POSTGRES_",
        table_name: str = "breakers",
        permit_lease: float = 5.0,
        create_schema: bool = True,
    ) -> None:
        try:
            table, _ = quoted_table(table_name)
            function, _ = quoted_table(f"{table_name}_exchange_1")
        except ValueError as error:
            raise ResilienceSettingsValidationError(str(error)) from None
        self._lease = check_lease(permit_lease)
        super().__init__(provider=provider, make=lambda: PostgresProvider(env_prefix=env_prefix))
        self._channel = f"{table_name.rpartition('.')[2]}_changed"
        self._statements = Statements(table, function, channel=self._channel, keep=_KEEP)
        self._table = Table(self._statements.schema, create=create_schema)
        self._sweeper = Sweeper(self._statements.sweep, seconds=600)
        self._fleet = Fleet(self, lease=self._lease)

    @property
    def schema(self) -> str:
        """The statements that make table and function, for those who do it by hand."""
        return self._table.schema

    async def __aenter__(self) -> Self:
        """Open a provider of its own, and look at what other replicas know."""
        await super().__aenter__()
        self._fleet.wake()
        return self

    async def closing(self) -> None:
        """End what runs in the background."""
        try:
            await self._fleet.close()
        finally:
            self.provider.unlisten(self._channel, self._heard)
            await self._sweeper.stop()

    def circuit(self, *, name: str, config: CircuitBreakerConfig) -> Circuit:
        """The circuit of a name and settings."""
        return self._fleet.circuit(name, config)

    async def exchange(self, name: str, config: CircuitBreakerConfig, report: Report) -> Answer:
        """Merge a report into what the server knows, in one step."""
        args: list[object] = [name, round(self._lease * 1e6), *numbers_of(config)]
        command = -1 if report.command is None else STATES.index(report.command)
        args += [report.base, command, report.trip, report.fresh]
        args += [STATES.index(report.state), round(report.remaining * 1e6)]
        args += [report.reset, report.errors, report.calls, report.failures, report.slow]
        args += [[*report.held], [token for token, _ in report.ended]]
        args += [[int(says) for _, says in report.ended], [ask.token for ask in report.asks]]
        rows = await self._table.made(
            self.provider, lambda: self.provider.fetch(self._statements.exchange, *args)
        )
        self._sweeper.if_due(self.provider)
        *record, granted = rows[0]
        return Answer(Record.of(*record), tuple(granted))

    async def look(self, names: Sequence[str]) -> Iterable[Record]:
        """What the server knows of circuits."""
        nothing: list[asyncpg.Record] = []
        rows = await self._table.or_nothing(
            lambda: self.provider.fetch(self._statements.look, [*names], repeatable=True), nothing
        )
        found = {name: Record.of(*record) for name, *record in rows}
        return [found.get(name, _UNKNOWN) for name in names]

    def listen(self, names: Sequence[str]) -> bool:
        """Hear of the changes of circuits; whether that can be heard."""
        return self.provider.listen(self._channel, self._heard)

    def _heard(self, name: bytes | None) -> None:
        """See what has changed: tables of one name, in other schemas, share the channel."""
        if name is None or name.decode() in self._fleet.names:
            self._fleet.wake()
