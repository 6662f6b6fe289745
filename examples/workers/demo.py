"""Let processes count under one lock, kill some of them while they hold it, and check the sum.

GRELMICRO_URL=redis://... python demo.py      # or postgresql://...
python demo.py --throwaway                    # on a Redis that is gone afterwards
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from worker import LEASE, TASKS

from grelmicro.providers import autodiscover

PROGRAM = Path(__file__).with_name("worker.py")
PATIENCE = 20.0

console = Console(highlight=False, markup=False)


class DemoError(RuntimeError):
    """What went wrong, in words for the one who started the demonstration."""


class Result(NamedTuple):
    """What became of one worker."""

    name: str
    killed: bool
    journal: int
    ledger: int
    longest: float


async def check_backend() -> str:
    """Make sure that what GRELMICRO_URL names is there, for all processes; its URL."""
    try:
        async with asyncio.timeout(PATIENCE), autodiscover() as provider:
            await provider.ping()
    except Exception as error:  # whatever a backend raises, it cannot be used
        why = str(error) or type(error).__name__
        raise DemoError(f"the backend that GRELMICRO_URL names cannot be used: {why}") from None
    if provider.short_name == "memory":
        raise DemoError(
            "locks in memory are those of one process, and these workers are several: "
            "set GRELMICRO_URL to a redis:// or postgresql:// URL, or pass --throwaway"
        )
    return provider.url


@asynccontextmanager
async def started(name: str, folder: Path, seconds: float) -> AsyncGenerator[Process]:
    """A worker that is ready; it is gone after the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        name,
        str(folder),
        str(seconds),
        stdin=PIPE,
        stdout=PIPE,
        stderr=None if sys.stderr.isatty() else DEVNULL,
    )
    try:
        await said(process, "ready")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def said(process: Process, word: str) -> None:
    """Wait until a worker says something."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        line = (await process.stdout.readline()).decode().strip()
    if line != word:
        raise DemoError(f"a worker ended before it was {word}")


async def demonstrate(workers: int, kills: int, seconds: float) -> None:
    """Let them count; kill some; show what is in the ledger."""
    url = await check_backend()
    console.print(
        f"{workers} processes of {TASKS} tasks count under one lock on {url}", soft_wrap=True
    )
    console.print(f"{kills} of them are killed while they hold it; its lease is {LEASE:g} s\n")
    with TemporaryDirectory() as path:
        folder = Path(path)
        (folder / "ledger.json").write_text(json.dumps({"fencing": 0, "counts": {}}))
        names = [f"worker-{number + 1}" for number in range(workers)]
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            fleet = await asyncio.gather(*(enter(started(n, folder, seconds)) for n in names))
            for process in fleet:
                assert process.stdin is not None
                process.stdin.write(b"\n")
            await kill_holders(fleet[:kills], seconds)
            await all_done(fleet[kills:], seconds)
        results = read(folder, names, kills)
    show(results)
    check(results)


async def kill_holders(victims: list[Process], seconds: float) -> None:
    """Kill one after the other, each at a moment when it holds the lock."""
    for victim in victims:
        await asyncio.sleep(seconds / (2 * len(victims) + 1))
        victim.send_signal(signal.SIGUSR1)
        await said(victim, "holding")
        victim.kill()


async def all_done(fleet: list[Process], seconds: float) -> None:
    """Wait for the others."""
    async with asyncio.timeout(seconds + PATIENCE):
        statuses = [await process.wait() for process in fleet]
    if any(statuses):
        raise DemoError("a worker failed")


def read(folder: Path, names: list[str], kills: int) -> list[Result]:
    """The ledger, beside what every worker wrote down for itself."""
    counts = json.loads((folder / "ledger.json").read_text())["counts"]
    results = []
    for number, name in enumerate(names):
        journal = folder / f"{name}.journal"
        own = json.loads(journal.read_text()) if journal.exists() else {"counted": 0, "longest": 0}
        row = (own["counted"], counts.get(name, 0), own["longest"])
        results.append(Result(name, number < kills, *row))
    return results


def show(results: list[Result]) -> None:
    """Print the table."""
    table = Table("process", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("counted", "in the ledger", "longest wait"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for result in results:
        fate = "killed, holding it" if result.killed else ""
        wait = f"{result.longest * 1000:.0f} ms"
        table.add_row(result.name, str(result.journal), str(result.ledger), wait, fate)
    console.print(table)


def check(results: list[Result]) -> None:
    """See that no update was lost.

    Raises:
        DemoError: One was; the lock did not do what it is for.
    """
    lost = sum(max(0, result.journal - result.ledger) for result in results)
    if lost:
        raise DemoError(f"{lost} updates were lost")
    console.print(f"{sum(result.ledger for result in results)} updates, none lost")


@contextmanager
def throwaway() -> Generator[None]:
    """Point GRELMICRO_URL to a Redis that is gone after the block."""
    from grelmicro.testing.servers import redis_server  # only who asks for it needs the kit

    with redis_server(own=True) as server:
        os.environ["GRELMICRO_URL"] = server.url
        yield


def main() -> int:
    """Run the demonstration; the exit status says whether it went well."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--throwaway", action="store_true", help="on a Redis of its own")
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    if not 0 <= options.kills < options.workers:
        parser.error("--kills: somebody has to be left")
    try:
        with throwaway() if options.throwaway else nullcontext():
            asyncio.run(demonstrate(options.workers, options.kills, options.seconds))
    except KeyboardInterrupt:
        return 130
    except (DemoError, TimeoutError, OSError) as error:
        why = str(error) or type(error).__name__
        Console(stderr=True).print(f"failed: {why}", style="red", markup=False, soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
