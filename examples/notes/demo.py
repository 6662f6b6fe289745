"""Start the service, let clients write and listen at once, and compare what they saw.

python demo.py        # an SQLite file that is gone afterwards, a cache in memory
NOTES_URL=postgresql://... GRELMICRO_URL=redis://... python demo.py
"""

import argparse
import asyncio
import json
import os
import socket
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import httpx
from rich.console import Console
from websockets.asyncio.client import ClientConnection, connect

HERE = Path(__file__).parent
PATIENCE = 20.0
BATCH = 5

console = Console(highlight=False, markup=False)


class DemoError(RuntimeError):
    """What went wrong, in words for the one who started the demonstration."""


@asynccontextmanager
async def served(environment: dict[str, str]) -> AsyncGenerator[tuple[str, httpx.AsyncClient]]:
    """Run the service under uvicorn, in a process that ends with the block; a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", "service:app", "--log-level", "critical"),
            *("--fd", str(listener.fileno()), "--ws", "websockets-sansio"),
            cwd=HERE,
            env=os.environ | environment,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            process_group=0,  # Ctrl-C is for us, who end it
        )
    try:
        limits = httpx.Limits(max_connections=20)
        base = f"http://{place}"
        async with httpx.AsyncClient(base_url=base, timeout=PATIENCE, limits=limits) as client:
            await until_ready(client, process)
            yield place, client
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def until_ready(client: httpx.AsyncClient, process: asyncio.subprocess.Process) -> None:
    """Wait until the service says that its backends answer."""
    deadline = monotonic() + PATIENCE
    while True:
        try:
            answer = await client.get("/readyz")
        except httpx.TransportError:
            answer = httpx.Response(503, json={"detail": "it does not listen yet"})
        if answer.status_code == 200:
            return
        if process.returncode is not None:
            raise DemoError("the service ended at its start: NOTES_URL cannot be used")
        if monotonic() > deadline:
            raise DemoError(f"the service is not ready: {answer.json()['detail']}")
        await asyncio.sleep(0.02)


async def demonstrate(writers: int, listeners: int) -> None:
    """Write, listen, and compare."""
    with TemporaryDirectory() as folder:
        url = os.environ.get("NOTES_URL", f"sqlite:{folder}/notes.db")
        async with served({"NOTES_URL": url}) as (place, client), AsyncExitStack() as stack:
            console.print(f"A service for notes at http://{place}, on {url.partition(':')[0]}")
            enter = stack.enter_async_context
            feeds = [await enter(connect(f"ws://{place}/feed")) for _ in range(listeners)]
            before = await listed(client)
            made = await written(client, writers)
            heard = await asyncio.gather(*(events(feed, len(made)) for feed in feeds))
            check(made, await listed(client) - before, heard)
            await read_twice(client, made)
            await removed(client, made)
            for feed in feeds:
                await events(feed, len(made))


async def listed(client: httpx.AsyncClient) -> Counter[int]:
    """The numbers of all notes."""
    return Counter(note["pk"] for note in (await client.get("/notes")).json())


async def written(client: httpx.AsyncClient, writers: int) -> list[int]:
    """Have everybody write two batches at once, of which the second has a fault in its middle."""
    good = [f"note {number}" for number in range(BATCH)]
    bad = [*good[: BATCH // 2], " ", *good]
    batches = [client.post("/notes", json=batch) for batch in (good, bad) * writers]
    answers = await asyncio.gather(*batches)
    codes = Counter(answer.status_code for answer in answers)
    if codes != {201: writers, 422: writers}:
        raise DemoError(f"answers that were not expected: {dict(codes)}")
    console.print(
        f"{writers} clients at once: {writers} batches of {BATCH} notes were committed, and "
        f"{writers} with an empty note in their middle were rolled back",
        soft_wrap=True,
    )
    return [note["pk"] for answer in answers if answer.status_code == 201 for note in answer.json()]


async def events(feed: ClientConnection, count: int) -> Counter[int]:
    """The numbers of the notes that so many events are about."""
    found: list[Any] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            found.append(json.loads(await feed.recv()))
    return Counter(event["note"]["pk"] for event in found)


def check(made: list[int], there: Counter[int], heard: list[Counter[int]]) -> None:
    """See that everybody saw the same.

    Raises:
        DemoError: Somebody saw what was rolled back, or did not see what was committed.
    """
    if any(each != Counter(made) for each in (there, *heard)):
        raise DemoError("a listener or the list does not have what was committed")
    console.print(
        f"{len(heard)} listeners heard of {len(made)} notes each, and just these are in the list",
        soft_wrap=True,
    )


async def read_twice(client: httpx.AsyncClient, made: list[int]) -> None:
    """Read every note, from the database at first and then from the cache."""
    for _ in range(2):
        answers = await asyncio.gather(*(client.get(f"/notes/{pk}") for pk in made))
        if [answer.json()["pk"] for answer in answers] != made:
            raise DemoError("a note is not what it was")


async def removed(client: httpx.AsyncClient, made: list[int]) -> None:
    """Remove what was made; nobody finds it any more, in the cache neither."""
    await asyncio.gather(*(client.delete(f"/notes/{pk}") for pk in made))
    answers = await asyncio.gather(*(client.get(f"/notes/{pk}") for pk in made))
    if {answer.status_code for answer in answers} != {404}:
        raise DemoError("a note that was removed is still there")
    console.print("all were read twice, removed, and are gone from the cache as well")


def main() -> int:
    """Run the demonstration; the exit status says whether it went well."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--writers", type=int, default=20)
    parser.add_argument("--listeners", type=int, default=5)
    options = parser.parse_args()
    try:
        asyncio.run(demonstrate(options.writers, options.listeners))
    except KeyboardInterrupt:
        return 130
    except (DemoError, TimeoutError, OSError, httpx.HTTPError) as error:
        why = str(error) or type(error).__name__
        Console(stderr=True).print(f"failed: {why}", style="red", markup=False, soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
