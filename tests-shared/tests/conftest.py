"""What the galleries of broken backends share: which clauses a backend breaks."""

import asyncio
import functools
import logging
import selectors
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from grelmicro.testing.conformance import Clause, Subject

_Found = Callable[[Subject, Iterable[Clause]], set[str]]

_STEP = 1e-5
"""Seconds that a callback takes."""

_HASTE = 10
"""Seconds that pass in one while threads work for a loop, which may wait for it in turn."""

_RESTLESS = 50_000
"""Turns of a loop without a pause after which it only waits for time to pass."""


class _Selector(selectors.DefaultSelector):
    """Tells its loop of pauses instead of making them."""

    loop: "_Loop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        is_pause = (timeout is None or timeout > 0) and not (found := super().select(0))
        if not is_pause:
            self.loop.turned()
            return super().select(0) if timeout == 0 else found
        if timeout is None or self.loop.is_helped:
            return super().select(timeout and timeout / _HASTE)
        self.loop.skip(timeout)
        return []


class _Loop(asyncio.SelectorEventLoop):
    """A loop whose clock goes by what is done on it: no machine is slow, and pauses take no time.

    While threads work for it, its clock is a real one that is fast.
    """

    current: "_Loop"

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = _Loop.current = self
        self._now = self._since = time.monotonic()
        self._helpers = self._restless = 0
        super().__init__(selector)

    @property
    def is_helped(self) -> bool:
        return self._helpers > 0

    def time(self) -> float:
        helped = time.monotonic() - self._since if self.is_helped else 0.0
        return self._now + helped * _HASTE

    def skip(self, seconds: float) -> None:
        self._now += seconds
        self._restless = 0

    def turned(self) -> None:
        self._restless += 1
        ready: Any = vars(self)["_ready"]  # there is no other way to know
        self._now += len(ready) * _STEP if self._restless < _RESTLESS else 0.01

    def run_in_executor(  # type: ignore[override]  # of any function
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> Any:
        if not self._helpers:
            self._since = time.monotonic()
        self._helpers += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._helped)
        return future

    def _helped(self, _: object) -> None:
        self._now = self.time()
        self._since = time.monotonic()
        self._helpers -= 1


def _patched(patch: pytest.MonkeyPatch, module: Any) -> None:
    """Have all that is under test go by the clock of its loop."""
    patch.setattr(asyncio, "Runner", functools.partial(asyncio.Runner, loop_factory=_Loop))
    clocks: dict[Any, Any] = {
        time.monotonic: lambda: _Loop.current.time(),
        time.monotonic_ns: lambda: int(_Loop.current.time() * 1e9),
    }
    names = [name for name in sys.modules if name.startswith("grelmicro.")]
    for each in [module, *(sys.modules[name] for name in names)]:
        for name, value in [*vars(each).items()]:
            if value is time.monotonic or value is time.monotonic_ns:
                patch.setattr(each, name, clocks[value])


def _breaks(subject: Subject, clause: Clause) -> bool:
    try:
        clause.check(subject)
    except Exception:
        return True
    return False


@pytest.fixture
def quiet() -> Iterator[None]:
    """Broken backends leave tasks with errors behind, which asyncio logs; they are not the news.

    Python 3.11 also breaks when several threads write tracebacks at the same time.
    """
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def broken(quiet: None, request: pytest.FixtureRequest) -> _Found:
    """Finds the clauses that a backend in memory breaks, on loops whose pauses take no time."""

    def find(subject: Subject, candidates: Iterable[Clause]) -> set[str]:
        with pytest.MonkeyPatch.context() as patch:
            _patched(patch, request.module)
            offered = [each for each in candidates if each.offered_by(subject)]
            return {each.id for each in offered if _breaks(subject, each)}

    return find


@pytest.fixture
def broken_outside(quiet: None) -> Callable[[Subject, Iterable[Clause], set[str]], set[str]]:
    """Finds the clauses that a backend with a server or processes breaks, which takes real time.

    They run side by side, as most of them wait. What is not as expected, if only for want of time,
    is looked at again alone.
    """

    def find(subject: Subject, candidates: Iterable[Clause], expected: set[str]) -> set[str]:
        offered = [each for each in candidates if each.offered_by(subject)]
        with ThreadPoolExecutor(len(offered)) as pool:
            verdicts = [*pool.map(functools.partial(_breaks, subject), offered)]
        found = {each.id for each, breaks in zip(offered, verdicts, strict=True) if breaks}
        doubtful = [each for each in offered if each.id in found ^ expected]
        return (found & expected) | {each.id for each in doubtful if _breaks(subject, each)}

    return find
