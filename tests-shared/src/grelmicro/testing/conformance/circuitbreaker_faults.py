"""What every circuit breaker backend promises in bad networks: to decide, and to catch up."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from grelmicro.errors import ResilienceError
from grelmicro.resilience import CircuitBreaker
from grelmicro.resilience import CircuitBreakerState as State
from grelmicro.testing.conformance._faults import FAULTS, away, behind, in_time
from grelmicro.testing.conformance._kit import clause, same
from grelmicro.testing.conformance._subject import Capability, Subject
from grelmicro.testing.conformance.circuitbreaker import breaker, crowd, fails, passes
from grelmicro.testing.conformance.circuitbreaker_together import become

_KIND = "circuitbreaker"
_MERGES = (*FAULTS, Capability.PROCESSES)


async def _told(change: Awaitable[None]) -> None:
    """Await a change by hand, which others may not hear of yet."""
    with suppress(ResilienceError):
        await change


async def _decides(each: CircuitBreaker) -> None:
    """See that a breaker does its work by what this process knows, each step in time."""
    same(await in_time(passes(each)), True, "let through while it is closed")
    for _ in range(3):
        await in_time(fails(each))
    same(each.state, State.OPEN, "after three errors")
    same(await in_time(passes(each)), False, "let through while it is open")
    await in_time(_told(each.transition_to_half_open()))
    same(await in_time(passes(each)), True, "let through half-open")
    same(each.state, State.CLOSED, "after a success while half-open")


async def _decides_with(subject: Subject, fault: Callable[[Any], None]) -> None:
    async with behind(subject, _KIND) as (proxy, backend):
        await _decides(breaker(backend, "before"))
        fault(proxy)
        await asyncio.gather(*(_decides(breaker(backend, f"during {n}")) for n in range(5)))
        proxy.heal()
        await asyncio.gather(*(_decides(breaker(backend, f"after {n}")) for n in range(5)))


@clause("circuitbreaker.fault.delay", needs=FAULTS, closed=True, slow=True)
async def delay(subject: Subject) -> None:
    """Answers that come late grant permits to who asked for them, and no more than there are.

    Networks are slow at times. Count permits that are asked for as if they were granted.
    """
    async with behind(subject, _KIND) as (proxy, backend):
        each = breaker(backend, half_open_capacity=3, success_threshold=9)
        await each.transition_to_half_open()
        proxy.delay(0.02)
        for _ in range(2):
            same(await in_time(crowd(each)), (3, 47), "who ran, and was refused, of 50 calls")
        await _decides(breaker(backend, "other"))


@clause("circuitbreaker.fault.cut", needs=FAULTS, closed=True, seconds=60.0, slow=True)
async def cut(subject: Subject) -> None:
    """When connections are lost, a breaker goes on by what its process knows.

    It guards calls, and must not be what fails them. Take a report that failed back, and send it
    again. A question that was not answered is decided here.
    """
    async with behind(subject, _KIND) as (proxy, backend):
        await _decides(breaker(backend, "before"))
        for turn in range(5):
            names = [f"{turn} {number}" for number in range(5)]
            deciding = asyncio.gather(*(_decides(breaker(backend, name)) for name in names))
            for _ in range(3 * turn):
                await asyncio.sleep(0)
            proxy.cut()
            await deciding
        await _decides(breaker(backend, "after"))


@clause("circuitbreaker.fault.refuse", needs=FAULTS, closed=True, seconds=60.0, slow=True)
async def refuse(subject: Subject) -> None:
    """Without a server a breaker opens, tries and closes by what its process knows.

    The store of breakers is down when much else is, and calls go on then. Decide here, and let no
    error of the store get to who calls.
    """
    await _decides_with(subject, away)


@clause("circuitbreaker.fault.half_close", needs=FAULTS, closed=True, seconds=60.0, slow=True)
async def half_close(subject: Subject) -> None:
    """A connection whose server has said its last word holds nobody up.

    Load balancers close in this way. Read the end of the stream as a lost connection.
    """
    await _decides_with(subject, lambda proxy: proxy.half_close())


@clause("circuitbreaker.fault.stall", needs=FAULTS, closed=True, seconds=90.0, slow=True)
async def stall(subject: Subject) -> None:
    """A server that does not answer holds up no call for long, and closed breakers none at all.

    A breaker that waits for its store is the outage that it is to prevent. Report in the
    background. Have a timeout on what has to be asked, and decide here after it.
    """
    await _decides_with(subject, lambda proxy: proxy.stall())


@clause("circuitbreaker.fault.merges", needs=_MERGES, closed=True, seconds=60.0, slow=True)
async def merges(subject: Subject) -> None:
    """What was opened without a server, here or elsewhere, is known to all when it is back.

    A trip that is lost costs every replica its own. Keep what was not reported. Look at what
    happened elsewhere as soon as the server answers.
    """
    async with behind(subject, _KIND) as (proxy, here), subject.open(_KIND) as there:
        mine, theirs, third = [(breaker(here, name), breaker(there, name)) for name in "abc"]
        for each in (*mine, *theirs):
            same(await passes(each), True, "let through before anything failed")
        away(proxy)
        for _ in range(3):
            await in_time(fails(mine[0]))
        same(mine[0].state, State.OPEN, "after three errors")
        await theirs[1].transition_to_forced_open()
        await in_time(_told(third[0].transition_to_open()))  # by now reports have failed
        same(mine[1].state, State.CLOSED, "elsewhere, where nobody can have heard of it")
        proxy.heal()
        await become(State.OPEN, *mine, *third)
        await become(State.FORCED_OPEN, *theirs)


@clause("circuitbreaker.fault.hears", needs=_MERGES, closed=True, seconds=60.0, slow=True)
async def hears(subject: Subject) -> None:
    """After connections were lost, changes elsewhere are heard of again, with nothing asked here.

    A subscription ends with its connection, and says nothing. Subscribe again, and look at what was
    missed.
    """
    async with behind(subject, _KIND) as (proxy, here), subject.open(_KIND) as there:
        one, other = breaker(here), breaker(there)
        await other.transition_to_forced_open()
        await become(State.FORCED_OPEN, one)
        proxy.cut()
        await other.transition_to_forced_closed()
        await become(State.FORCED_CLOSED, one)
        proxy.half_close()
        await other.transition_to_forced_open()
        await become(State.FORCED_OPEN, one)
