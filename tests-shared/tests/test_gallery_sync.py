"""Locks that are broken on purpose: each breaks what it is registered for, no other."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, ClassVar, Self

import pytest

from grelmicro.providers import Provider
from grelmicro.testing.conformance import Clause, Subject, clauses

Found = Callable[[Subject, Iterable[Clause]], set[str]]
Lease = tuple[str, int, float]

CLAUSES = [
    each for each in clauses("sync") if each.id.split(".")[1] not in ("fault", "processes", "model")
]
"""The others have a gallery of their own."""


class Locks:
    """An honest backend that waits at every step, as one on a network does."""

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self) -> None:
        self.leases: dict[str, Lease] = {}
        self.numbers = itertools.count(1)
        self.freed: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._loop = None

    def end(self, duration: float) -> float:
        return monotonic() + duration

    def live(self, name: str) -> Lease | None:
        lease = self.leases.get(name)
        return lease if lease and lease[2] > monotonic() else None

    def take(self, name: str, token: str, duration: float) -> int:
        number = next(self.numbers)
        self.leases[name] = token, number, self.end(duration)
        return number

    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        await asyncio.sleep(0)
        lease = self.live(name)
        if lease is None:
            return self.take(name, token, duration)
        if lease[0] != token:
            return 0
        self.leases[name] = token, lease[1], self.end(duration)
        return lease[1]

    async def release(self, *, name: str, token: str) -> bool:
        await asyncio.sleep(0)
        if not self.has(name, token):
            return False
        del self.leases[name]
        self.freed[name].set()
        return True

    def has(self, name: str, token: str) -> bool:
        lease = self.live(name)
        return lease is not None and lease[0] == token

    async def locked(self, *, name: str) -> bool:
        await asyncio.sleep(0)
        return self.live(name) is not None

    async def owned(self, *, name: str, token: str) -> bool:
        await asyncio.sleep(0)
        return self.has(name, token)

    async def wait(self, *, name: str, timeout: float) -> None:
        self.freed[name].clear()
        try:
            async with asyncio.timeout(timeout):
                await self.freed[name].wait()
        except TimeoutError:
            pass

    async def hand_over(self, *, name: str, token: str, to: str, duration: float) -> int:
        await asyncio.sleep(0)
        lease = self.live(name)
        if lease and lease[0] == to:
            return lease[1]
        return self.take(name, to, duration) if self.has(name, token) else 0


class LocksProvider(Provider):
    short_name = "locks"
    adapter: ClassVar[Any] = Locks

    @property
    def url(self) -> str:
        return ""

    async def ping(self) -> float:
        return 0.001

    def sync(self, **_: Any) -> Any:
        return type(self).adapter()


def subject(backend: type[Locks]) -> Subject:
    provider = type(f"{backend.__name__}Provider", (LocksProvider,), {"adapter": backend})
    return Subject(backend.__name__, provider)


GALLERY: dict[type[Locks], set[str]] = {}


MAY: dict[type[Locks], set[str]] = {}
"""Clauses that find a broken backend now and then, as real threads happen to meet."""


def breaks(*found_by: str, may: Sequence[str] = ()) -> Callable[[type[Locks]], type[Locks]]:
    """Register a broken backend for the clauses that find it."""

    def register(backend: type[Locks]) -> type[Locks]:
        GALLERY[backend] = {f"sync.{each}" for each in found_by}
        MAY[backend] = {f"sync.{each}" for each in may}
        return backend

    return register


@breaks(
    *("acquire.excludes", "acquire.one_of_many"),
    *("lock.renews", "lock.tells_a_loss", "lock.gives_up"),
)
class LetsAnybodyIn(Locks):
    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        if self.has(name, token):
            return await super().acquire(name=name, token=token, duration=duration)
        await asyncio.sleep(0)
        return self.take(name, token, duration)


@breaks("acquire.one_of_many")
class ChecksAndThenSets(Locks):
    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        if self.live(name) is not None:
            return await super().acquire(name=name, token=token, duration=duration)
        await asyncio.sleep(0)
        return self.take(name, token, duration)


@breaks("acquire.again_extends", "lock.renews")
class NeverExtends(Locks):
    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        await asyncio.sleep(0)
        lease = self.live(name)
        if lease is None:
            return self.take(name, token, duration)
        return lease[1] if lease[0] == token else 0


@breaks(
    *("acquire.again_extends", "acquire.expires", "acquire.short_lease", "acquire.numbers_rise"),
    *("release.compares", "locked.tells"),
)
class NeverEnds(Locks):
    def live(self, name: str) -> Lease | None:
        return self.leases.get(name)


@breaks(
    *("acquire.again_extends", "acquire.expires", "acquire.short_lease", "acquire.numbers_rise"),
    *("release.compares", "locked.tells"),
)
class CountsWholeSeconds(Locks):
    def end(self, duration: float) -> float:
        return monotonic() + (int(duration) or 1e9)


@breaks("acquire.short_lease")
class RoundsAMillisecondToForEver(Locks):
    def end(self, duration: float) -> float:
        return monotonic() + (round(duration, 2) or 1e9)


@breaks("acquire.lasts", "lock.renews")
class TakesSecondsForMilliseconds(Locks):
    def end(self, duration: float) -> float:
        return monotonic() + (duration / 1000 if duration < 30 else duration)


@breaks("acquire.numbers_rise", "acquire.numbers_rise_among_many")
class CountsPerLife(Locks):
    def take(self, name: str, token: str, duration: float) -> int:
        before = self.leases.get(name)
        number = before[1] + 1 if before else 1
        self.leases[name] = token, number, self.end(duration)
        return number


@breaks("acquire.numbers_rise_among_many")
class DrawsItsNumberBefore(Locks):
    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        if self.live(name) is not None:
            return await super().acquire(name=name, token=token, duration=duration)
        number = next(self.numbers)
        for _ in range(100):
            for _ in range(1 + number % 3):
                await asyncio.sleep(0)
            if self.live(name) is None:
                self.leases[name] = token, number, self.end(duration)
                return number
        return 0


@breaks("names.apart")
class CutsNames(Locks):
    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        return await super().acquire(name=name[:255].strip(), token=token, duration=duration)


@breaks("tokens.exact")
class SplitsTokens(Locks):
    def has(self, name: str, token: str) -> bool:
        lease = self.live(name)
        return lease is not None and lease[0].split(" ")[-1] == token.split(" ")[-1]


@breaks(
    *("acquire.numbers_rise", "acquire.numbers_rise_among_many", "tokens.exact", "release.frees"),
    *("release.once", "hand_over.gives", "wait.wakes", "cancel.acquire", "lock.excludes"),
    *("lock.threads", "lock.tells_a_loss", "lock.gives_up"),
)
class KeepsWhatIsGivenBack(Locks):
    async def release(self, *, name: str, token: str) -> bool:
        return self.has(name, token)


@breaks("acquire.expires", "tokens.exact", "release.compares", "release.once")
class ReleasesAsOftenAsAsked(Locks):
    async def release(self, *, name: str, token: str) -> bool:
        await super().release(name=name, token=token)
        return True


@breaks("hand_over.gives")
class HandsOverWhatItHasNot(Locks):
    async def hand_over(self, *, name: str, token: str, to: str, duration: float) -> int:
        return self.take(name, to, duration)


@breaks(
    *("call.by_keyword", "acquire.expires", "acquire.numbers_rise", "hand_over.gives"),
    *("acquire.numbers_rise_among_many", "names.apart", "tokens.exact", "cancel.acquire"),
    *("release.frees", "release.compares", "release.once", "wait.wakes", "wait.ends"),
    *("lock.excludes", "lock.threads", "lock.renews", "lock.tells_a_loss", "lock.gives_up"),
)
class CallsItOtherwise(Locks):
    async def otherwise(self, key: str, token: str) -> bool:
        return await super().release(name=key, token=token)

    release: Any = otherwise


@breaks("open.notes_its_loop", "lock.threads")
class NotesNoLoop(Locks):
    async def __aenter__(self) -> Self:
        return self


@breaks("open.notes_its_loop", "lock.threads")
class NotesTheWrongLoop(Locks):
    async def __aenter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._loop.close()
        return self


@breaks("wait.wakes")
class NeverWakes(Locks):
    async def wait(self, *, name: str, timeout: float) -> None:
        await asyncio.sleep(timeout)


@breaks("wait.ends", "wait.wakes")
class WaitsForEver(Locks):
    async def wait(self, *, name: str, timeout: float) -> None:
        await asyncio.Event().wait()


@breaks("cancel.acquire", "acquire.one_of_many")
class DoesItLater(Locks):
    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        work = asyncio.ensure_future(self.late(name, token, duration))
        return await asyncio.shield(work)

    async def late(self, name: str, token: str, duration: float) -> int:
        if self.live(name) is not None:
            return await super().acquire(name=name, token=token, duration=duration)
        is_first = name not in self.asked
        self.asked.add(name)
        await asyncio.sleep(0.005 if is_first else 0)
        return self.take(name, token, duration)

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()


@breaks(
    *("acquire.expires", "acquire.numbers_rise", "tokens.exact", "release.compares"),
    *("release.once", "cancel.acquire", "lock.tells_a_loss"),
)
class TellsNobody(Locks):
    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        number = await super().acquire(name=name, token=token, duration=duration)
        return self.known.setdefault(token, number) if number or token in self.known else 0

    async def release(self, *, name: str, token: str) -> bool:
        return await super().release(name=name, token=token) or bool(self.known.get(token))

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, int] = {}


@breaks("lock.gives_up", may=["lock.threads"])
class GrantsToThoseWhoLeft(Locks):
    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        number = await super().acquire(name=name, token=token, duration=duration)
        if not number:
            self.queue.append(token)
        return number

    async def release(self, *, name: str, token: str) -> bool:
        released = await super().release(name=name, token=token)
        if released and self.queue:
            self.take(name, self.queue.pop(), 3600)
        return released

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[str] = []


def test_an_honest_backend_keeps_all(broken: Found) -> None:
    assert broken(subject(Locks), CLAUSES) == set()


@pytest.mark.parametrize("made", GALLERY, ids=lambda made: made.__name__)
def test_a_broken_one_breaks_what_it_is_registered_for(made: type[Locks], broken: Found) -> None:
    assert broken(subject(made), CLAUSES) - MAY[made] == GALLERY[made]


def test_every_clause_can_be_broken() -> None:
    assert set().union(*GALLERY.values()) == {each.id for each in CLAUSES}
