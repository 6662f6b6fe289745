"""Promises about a network that misbehaves: the same for all that asks a server."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import urlsplit

from grelmicro.testing.conformance._kit import BrokenPromiseError, clause, promise
from grelmicro.testing.conformance._subject import Capability, Subject

__all__ = ["FAULTS", "away", "behind", "faults_of", "in_time", "works_again"]

T = TypeVar("T")

Use = Callable[[Any, str], Awaitable[None]]
"""Uses an adapter under a name that nobody else uses, and looks whether it answers rightly."""

STALLED = 15.0
"""Seconds in which an operation has to end, whatever the network does."""

HEALED = 10.0
"""Seconds in which an adapter has to work again when the network does."""

FAULTS = (Capability.FAULTS,)
"""What a clause needs that misuses the network."""


@asynccontextmanager
async def behind(subject: Subject, kind: str) -> AsyncGenerator[tuple[Any, Any]]:
    """Open a provider, or its adapter, whose way to its server is a proxy; both are given."""
    from grelmicro.testing.proxy import FaultProxy  # sockets: only who needs them imports it

    where = urlsplit(subject.endpoint)
    assert where.hostname is not None
    assert where.port is not None
    async with (
        FaultProxy(where.hostname, where.port) as proxy,
        subject.open(kind, proxy.url_for(subject.endpoint)) as adapter,
    ):
        yield proxy, adapter


def away(proxy: Any) -> None:
    """Be without a server."""
    proxy.refuse()
    proxy.cut()


async def in_time(doing: Awaitable[T]) -> T:
    """Await what has to end in time, whatever the network does.

    Raises:
        BrokenPromiseError: It does not.
        Exception: Whatever it raised.
    """
    try:
        async with asyncio.timeout(STALLED) as deadline:
            return await doing
    except TimeoutError:
        promise(not deadline.expired(), f"an operation did not end in {STALLED:g} s")
        raise


async def _fails_in_time(use: Use, adapter: Any, name: str) -> None:
    """See that an operation ends with an error, and in time."""
    started = monotonic()
    try:
        await in_time(use(adapter, name))
    except BrokenPromiseError:
        raise
    except Exception:
        return
    promise(False, f"it answered after {monotonic() - started:.2f} s, without its server")


async def works_again(use: Use, adapter: Any) -> None:
    """See that an adapter finds its way back by itself."""
    until = monotonic() + HEALED
    attempt, last = 0, "nothing"
    while monotonic() < until:
        attempt += 1
        try:
            async with asyncio.timeout(HEALED):
                await use(adapter, f"again {attempt}")
        except BrokenPromiseError:
            raise
        except Exception as error:
            last = f"{type(error).__name__}: {error}"
            await asyncio.sleep(0.05)
        else:
            return
    promise(False, f"{HEALED:g} s after the network was well it still failed: {last}")


def faults_of(kind: str, use: Use, needs: tuple[Capability, ...] = FAULTS) -> None:
    """Write the clauses of a kind."""

    @clause(f"{kind}.fault.delay", needs=needs, closed=True, slow=True)
    async def delay(subject: Subject) -> None:
        """Answers that come late, and one after the other, go to who asked for them.

        Networks are slow at times. Match answers with questions by their order, whatever the delay.
        """
        async with behind(subject, kind) as (proxy, adapter):
            await use(adapter, "before")
            proxy.delay(0.02)
            await asyncio.gather(*(use(adapter, f"{number}") for number in range(20)))

    @clause(f"{kind}.fault.cut", needs=needs, closed=True, seconds=60.0, slow=True)
    async def cut(subject: Subject) -> None:
        """What is under way when connections are lost fails or succeeds: it neither hangs nor lies.

        Servers restart. Fail what was sent and not answered. Make a new connection for the next.
        """
        async with behind(subject, kind) as (proxy, adapter):
            await use(adapter, "before")
            for turn in range(5):
                tasks = [
                    asyncio.ensure_future(use(adapter, f"{turn} {number}")) for number in range(20)
                ]
                for _ in range(turn):
                    await asyncio.sleep(0)
                proxy.cut()
                done, hung = await asyncio.wait(tasks, timeout=STALLED)
                promise(not hung, f"{len(hung)} of {len(tasks)} operations hang after a cut")
                for task in done:
                    if isinstance(error := task.exception(), BrokenPromiseError):
                        raise error
            await works_again(use, adapter)

    @clause(f"{kind}.fault.refuse", needs=needs, closed=True, seconds=60.0, slow=True)
    async def refuse(subject: Subject) -> None:
        """Without a server an operation fails in time; with one again, it works by itself.

        An application is not started anew because its server was. Bound every attempt to connect,
        and try again with the next operation.
        """
        async with behind(subject, kind) as (proxy, adapter):
            await use(adapter, "before")
            away(proxy)
            for attempt in range(3):  # the first may only find out that its connection is lost
                await _fails_in_time(use, adapter, f"away {attempt}")
            proxy.heal()
            await works_again(use, adapter)

    @clause(f"{kind}.fault.half_close", needs=needs, closed=True, seconds=60.0, slow=True)
    async def half_close(subject: Subject) -> None:
        """A connection whose server has said its last word is not used any more.

        Load balancers close in this way. Read the end of the stream as a lost connection, also
        while nothing is asked.
        """
        async with behind(subject, kind) as (proxy, adapter):
            await use(adapter, "before")
            proxy.half_close()
            await works_again(use, adapter)

    @clause(f"{kind}.fault.stall", needs=needs, closed=True, seconds=60.0, slow=True)
    async def stall(subject: Subject) -> None:
        """A server that does not answer makes an operation fail in time, and no answer is mistaken.

        A stalled call would stall its caller, and all of a service in the end. Have a timeout on
        every exchange. Throw a connection away whose answer may still come.
        """
        async with behind(subject, kind) as (proxy, adapter):
            await use(adapter, "before")
            proxy.stall()
            await _fails_in_time(use, adapter, "while it is stalled")
            proxy.heal()
            await works_again(use, adapter)
            await asyncio.gather(*(use(adapter, f"after {number}") for number in range(20)))
