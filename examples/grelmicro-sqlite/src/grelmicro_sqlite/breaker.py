"""Circuit breakers: a row of JSON for each, into which reports are merged."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Self

from grelmicro.resilience import Circuit, CircuitBreakerConfig
from grelmicro.resilience import CircuitBreakerState as State
from grelmicro.resilience.fleet import Answer, Fleet, Record, Report, Says, check_lease
from grelmicro_sqlite.provider import SQLiteAdapter, SQLiteProvider, Transaction
from grelmicro_sqlite.schema import NOW, microseconds

__all__ = ["SQLiteCircuitBreakerAdapter"]

_KEPT = 3_600_000_000
"""Microseconds for which a circuit is kept that nobody reports of."""

_FOREVER = 2**62

_PARTS = 10
"""Parts of a window; the oldest is dropped as a whole."""

_FORCED = (State.FORCED_OPEN, State.FORCED_CLOSED)

_FIND = "SELECT state FROM breakers WHERE prefix = :prefix AND name = :name"

_LOOK = f"SELECT state, {NOW} FROM breakers WHERE prefix = :prefix AND name = :name"

_KEEP = """
INSERT INTO breakers VALUES (:prefix, :name, :state, :kept) ON CONFLICT (prefix, name)
DO UPDATE SET state = excluded.state, expires_at = excluded.expires_at"""


@dataclass
class _Known:
    """What the file knows of a circuit; times are microseconds."""

    version: int = 0
    state: str = State.CLOSED
    ends: int = 0
    """When it is open no more."""
    errors: int = 0
    successes: int = 0
    permits: dict[str, int] = field(default_factory=dict)
    """Tokens, and when their leases end."""
    width: int = 0
    """What the parts are parts of: others are of another window, and do not count."""
    parts: dict[str, list[int]] = field(default_factory=dict)
    """Calls, failures and slow calls in each part of the window, by its number."""

    def record(self, now: int) -> Record:
        """What replicas are told."""
        left = max(0, self.ends - now) if self.state == State.OPEN else 0
        return Record(self.version, State(self.state), left / 1e6, self.errors, self.successes)


class _Merge:
    """Merges one report into what is known, in the order that `Report` asks for."""

    def __init__(self, known: _Known, config: CircuitBreakerConfig, now: int, lease: int) -> None:
        self._known = known
        self._config = config
        self._now = now
        self._lease = lease

    def of(self, report: Report) -> tuple[bool, ...]:
        """Merge a report; which of the permits that it asks for are granted."""
        known, base = self._known, report.base
        if not known.version and report.state is not State.CLOSED:  # what was known here is lost
            self._change(report.state, report.remaining)
            base = known.version
        before = known.version
        self._hold(report.held)
        matches = base == known.version or (not base and known.state == State.CLOSED)
        if report.command is not None:
            self._change(report.command, report.remaining)
        elif report.trip and matches:
            self._trip(report.remaining)
        for token, says in report.ended:
            self._end(token, says, base)
        counts = known.version != before if report.fresh else matches and known.version == before
        if counts and known.state == State.CLOSED:
            self._count(report)
        granted = tuple(self._grants(ask.token) for ask in report.asks)
        if not known.version and (known.errors or report.calls):
            known.version = self._now
        return granted

    def _change(self, state: State, seconds: float = 0.0) -> None:
        """Change the state; versions are ahead of the clock, and rise also when rows were lost."""
        known = self._known
        known.version = max(known.version + 1, self._now)
        known.state, known.ends = state, self._now + round(seconds * 1e6)
        known.errors = known.successes = 0
        known.parts = {}

    def _open(self) -> None:
        self._change(State.OPEN, self._config.reset_timeout)

    def _trip(self, seconds: float) -> None:
        known = self._known
        is_open = known.state == State.OPEN and known.ends > self._now
        if not is_open and known.state not in _FORCED:
            self._change(State.OPEN, seconds)

    def _hold(self, tokens: Iterable[str]) -> None:
        """Forget the permits whose leases are over, and renew those that are held."""
        permits = {token: end for token, end in self._known.permits.items() if end > self._now}
        self._known.permits = permits | dict.fromkeys(tokens, self._now + self._lease)

    def _end(self, token: str, says: Says, base: int) -> None:
        """Take a permit back, and hear what its probe says, if that is about the state now."""
        known = self._known
        if known.permits.pop(token, None) is None:
            return
        if known.state != State.HALF_OPEN or base != known.version:
            return
        if says is Says.BAD:
            self._open()
        elif says is Says.GOOD:
            known.successes += 1
            if known.successes >= self._config.success_threshold:
                self._change(State.CLOSED)

    def _count(self, report: Report) -> None:
        if self._config.by_rate:
            self._count_calls(report)
            return
        known = self._known
        known.errors = report.errors + (0 if report.reset else known.errors)
        if known.errors >= self._config.errors_in_a_row:
            self._open()

    def _count_calls(self, report: Report) -> None:
        """Add calls to the window's last part; open if the rates of the whole are too high."""
        if not report.calls:
            return
        part = self._part()
        parts = {n: each for n, each in self._known.parts.items() if part - _PARTS < int(n) <= part}
        old = parts.get(str(part), [0, 0, 0])
        new = report.calls, report.failures, report.slow
        parts[str(part)] = [a + b for a, b in zip(old, new, strict=True)]
        self._known.parts = parts
        calls, failures, slow = map(sum, zip(*parts.values(), strict=True))
        if calls >= self._config.fewest_calls and (
            _reaches(failures / calls, self._config.failure_rate)
            or _reaches(slow / calls, self._config.slow_call_rate)
        ):
            self._open()

    def _part(self) -> int:
        """The number of the part to count in: of so much time, or the last one that has room."""
        config, known = self._config, self._known
        in_time = config.window_seconds is not None
        size = (config.window_seconds or 0) * 1e6 if in_time else config.calls_in_window
        width = max(1, math.ceil(size / _PARTS)) * (1 if in_time else -1)
        if known.width != width:
            known.width, known.parts = width, {}
        if in_time:
            return self._now // width
        last = max(map(int, known.parts), default=0)
        is_full = known.parts.get(str(last), [0])[0] >= -width
        return last + 1 if is_full else last

    def _grants(self, token: str) -> bool:
        known = self._known
        if known.state == State.OPEN and known.ends <= self._now:
            self._change(State.HALF_OPEN)
        grants = (
            known.state == State.HALF_OPEN and len(known.permits) < self._config.half_open_capacity
        )
        if grants:
            known.permits[token] = self._now + self._lease
        return grants


class SQLiteCircuitBreakerAdapter(SQLiteAdapter):
    """Circuit breakers that all processes of the file share; they look every half second.

    Args:
        provider: The provider to borrow.
        prefix: What tells this adapter's rows from those of others, taken literally.
        permit_lease: Seconds after which the permits of a process that died are free, from 0.1 on.

    Raises:
        ResilienceSettingsValidationError: `permit_lease` is too short, or no number of seconds.
    """

    def __init__(
        self, provider: SQLiteProvider, *, prefix: str = "", permit_lease: float = 5.0
    ) -> None:
        check_lease(permit_lease)
        super().__init__(provider, prefix=prefix)
        self._lease = microseconds(permit_lease)
        self._fleet = Fleet(self, lease=permit_lease)

    async def __aenter__(self) -> Self:
        """Look at what other processes know."""
        await super().__aenter__()
        self._fleet.wake()
        return self

    async def closing(self) -> None:
        """Report what is left, and end what runs in the background."""
        await self._fleet.close()

    def circuit(self, *, name: str, config: CircuitBreakerConfig) -> Circuit:
        """The circuit of a name and settings."""
        return self._fleet.circuit(name, config)

    async def exchange(self, name: str, config: CircuitBreakerConfig, report: Report) -> Answer:
        """Merge a report into what the file knows, in one transaction."""
        row = {"prefix": self._prefix, "name": name}

        async def merge(transaction: Transaction) -> Answer:
            now = transaction.now
            await transaction.sweep("breakers", now)
            found = await transaction.run(_FIND, **row)
            known = _Known(**json.loads(found[0][0])) if found else _Known()
            granted = _Merge(known, config, now, self._lease).of(report)
            idle = now + microseconds(config.reset_timeout) + _KEPT
            kept = _FOREVER if known.state in _FORCED else idle
            await transaction.run(_KEEP, **row, state=json.dumps(asdict(known)), kept=kept)
            return Answer(known.record(now), granted)

        return await self.provider.transact(merge)

    async def look(self, names: Sequence[str]) -> Iterable[Record]:
        """What the file knows of circuits."""
        return [await self._record(name) for name in names]

    def listen(self, names: Sequence[str]) -> bool:
        """False: a file tells nobody of its changes."""
        return False

    async def _record(self, name: str) -> Record:
        rows = await self.provider.read(_LOOK, prefix=self._prefix, name=name)
        if not rows:
            return _Known().record(0)
        state, now = rows[0]
        return _Known(**json.loads(state)).record(now)


def _reaches(rate: float, limit: float | None) -> bool:
    return limit is not None and rate >= limit
