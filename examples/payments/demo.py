"""Two replicas under too much traffic, and a bank that falls ill and recovers.

GRELMICRO_URL=redis://... python demo.py      # or postgresql://...
python demo.py --throwaway                    # on a Redis that is gone afterwards
"""

import argparse
import asyncio
import os
import socket
import sys
from asyncio.subprocess import DEVNULL
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import httpx
from payments import ERRORS, PER_SECOND
from rich import box
from rich.console import Console
from rich.table import Table

from grelmicro.providers import autodiscover

HERE = Path(__file__).parent
WORDS = {200: "paid", 429: "limited", 502: "failed", 503: "short-circuited"}
RATE = 100
PATIENCE = 20.0

WIDTH = None if sys.stdout.isatty() else 100  # states with long names fit into a file

console = Console(highlight=False, markup=False, width=WIDTH)


class DemoError(RuntimeError):
    """What went wrong, in words for the one who started the demonstration."""


class Second(NamedTuple):
    """What became of the requests of about a second."""

    mood: str
    took: float
    counts: Counter[str]
    states: list[str]
    failed_on_2: int


async def check_backend() -> str:
    """Make sure that what GRELMICRO_URL names is there, for both replicas; its URL."""
    try:
        async with asyncio.timeout(PATIENCE), autodiscover() as provider:
            await provider.ping()
    except Exception as error:  # whatever a backend raises, it cannot be used
        why = str(error) or type(error).__name__
        raise DemoError(f"the backend that GRELMICRO_URL names cannot be used: {why}") from None
    if provider.short_name == "memory":
        raise DemoError(
            "limits and breakers in memory are those of one process, and these replicas are two: "
            "set GRELMICRO_URL to a redis:// or postgresql:// URL, or pass --throwaway"
        )
    return provider.url


@asynccontextmanager
async def serving(program: str, path: str, **environment: str) -> AsyncGenerator[httpx.AsyncClient]:
    """A server in a process of its own, that answers; it is gone after the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HERE / program),
            str(listener.fileno()),
            pass_fds=[listener.fileno()],
            env=os.environ | environment,
            stderr=None if sys.stderr.isatty() else DEVNULL,
        )
    try:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
            await answering(client, path, process)
            yield client
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def answering(client: httpx.AsyncClient, path: str, process: Any) -> None:
    """Wait until a server does what it is there for: its socket listens before that."""
    try:
        await client.get(path)
    except httpx.HTTPError:
        raise DemoError(f"a server did not start (exit status {process.returncode})") from None


async def demonstrate(moods: list[tuple[str, int]]) -> None:
    """Send traffic while the bank has one mood after the other; show what became of it."""
    url = await check_backend()
    console.print(f"two replicas share a limiter and a breaker on {url}", soft_wrap=True)
    console.print(f"{RATE} requests a second come in, and {PER_SECOND} may pass")
    console.print("what became of them, and the breaker's state on either replica:\n")
    table = a_table()
    seconds: list[Second] = []
    async with AsyncExitStack() as stack:
        bank = await stack.enter_async_context(serving("bank.py", "/"))
        start = {"path": "/readyz", "BANK": str(bank.base_url)}
        fleet = [await stack.enter_async_context(serving("payments.py", **start)) for _ in range(2)]
        for mood, count in moods:
            await bank.post(f"/mood/{mood}")
            for _ in range(count):
                seconds.append(await a_second(mood, fleet))
                row(table, len(seconds), seconds[-1])
    console.print(table)
    check(seconds)


async def a_second(mood: str, fleet: list[httpx.AsyncClient]) -> Second:
    """Send a second's requests, one in ten to the second replica; what became of them."""
    begun = monotonic()
    tasks = []
    for number in range(RATE):
        await asyncio.sleep(max(0.0, begun + number / RATE - monotonic()))
        # Few to the second, which is to hear of the bank from the first.
        tasks.append(asyncio.create_task(fleet[number % 10 == 9].post("/pay")))
    answers = await asyncio.gather(*tasks)
    took = monotonic() - begun
    states = [(await replica.get("/state")).json()["bank"] for replica in fleet]
    words = [WORDS[answer.status_code] for answer in answers]
    return Second(mood, took, Counter(words), states, words[9::10].count("failed"))


def a_table() -> Table:
    """An empty one."""
    table = Table("s", "bank", box=box.SIMPLE_HEAD, pad_edge=False)
    for word in WORDS.values():
        table.add_column(word, justify="right", no_wrap=True)
    for name in ("on 1", "on 2"):
        table.add_column(name, no_wrap=True)
    return table


def row(table: Table, number: int, second: Second) -> None:
    """Add a second to the table."""
    counts = [str(second.counts[word]) for word in WORDS.values()]
    table.add_row(str(number), second.mood, *counts, *second.states)


def check(seconds: list[Second]) -> None:
    """See that it went as it should.

    Raises:
        DemoError: It did not.
    """
    passed = [sum(second.counts.values()) - second.counts["limited"] for second in seconds]
    took = sum(second.took for second in seconds) + 1  # and what was asked at its beginning
    if sum(passed) > PER_SECOND * (1 + took) or min(passed) < PER_SECOND * 0.7:
        raise DemoError(f"{passed} requests passed the limiter in these seconds")
    ill = [second for second in seconds if second.mood != "well"]
    # In the first of them, calls are under way until it is known that they fail.
    if not all(second.counts["short-circuited"] > second.counts["failed"] for second in ill[1:]):
        raise DemoError("the replicas went on asking a bank that does not answer")
    if ill[0].mood == "failing" and ill[0].failed_on_2 >= ERRORS:
        raise DemoError("the second replica had to find out for itself that the bank is ill")
    if any("CLOSED" in second.states for second in ill):
        raise DemoError("a replica did not hear that the bank is ill")
    if seconds[-1].states != ["CLOSED", "CLOSED"] or not seconds[-1].counts["paid"]:
        raise DemoError("the replicas did not go back to a bank that is well")
    asked = sum(second.counts["failed"] for second in ill)
    console.print(f"while it was ill, the bank was asked {asked} times in {len(ill)} seconds")


@contextmanager
def throwaway() -> Generator[None]:
    """A Redis for the block, in the environment that the replicas inherit."""
    from grelmicro.testing.servers import redis_server

    with redis_server(own=True) as server:
        os.environ["GRELMICRO_URL"] = server.url
        yield


def main() -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--throwaway", action="store_true", help="on a Redis of its own")
    parser.add_argument("--mood", choices=["failing", "hanging"], default="failing")
    options = parser.parse_args()
    try:
        with throwaway() if options.throwaway else nullcontext():
            asyncio.run(demonstrate([("well", 2), (options.mood, 3), ("well", 3)]))
    except KeyboardInterrupt:
        return 130
    except (DemoError, httpx.HTTPError, OSError) as error:
        console.print(f"demo: {str(error) or type(error).__name__}", soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
