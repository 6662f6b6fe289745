"""Take orders without a pause while all workers are replaced, and one is sent away; then stop.

python demo.py        # a file that is gone afterwards, and prices cached in memory
GRELMICRO_URL=redis://... python demo.py
"""

import argparse
import asyncio
import json
import os
import signal
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from rich import box
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
PATIENCE = 30.0

console = Console(highlight=False, markup=False)


class DemoError(RuntimeError):
    """What went wrong, in words for the one who started the demonstration."""


class Service:
    """The service, in processes of its own.

    Args:
        process: The parent.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        """What it has logged."""
        self._said = asyncio.Condition()

    async def listen(self) -> None:
        """Read its log, a JSON object a line."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            async with self._said:
                is_json = line.startswith(b"{")  # what ends while it is imported says it otherwise
                self.lines.append(json.loads(line) if is_json else {"event": line.decode()})
                self._said.notify_all()
        async with self._said:
            self.lines.append({"event": "ended"})
            self._said.notify_all()

    def events(self, text: str) -> list[str]:
        """The lines of its log with a text."""
        return [line["event"] for line in self.lines if text in line["event"]]

    async def until(self, text: str, count: int = 1) -> None:
        """Wait until it has logged something so often.

        Raises:
            DemoError: It has ended instead.
        """
        async with asyncio.timeout(PATIENCE), self._said:
            await self._said.wait_for(lambda: len(self.events(text)) >= count or self._over())
        if len(self.events(text)) < count:
            failures = [x["event"] for x in self.lines if x.get("level") in ("error", "critical")]
            raise DemoError("; ".join(failures) or "the service has ended")

    def _over(self) -> bool:
        return bool(self.lines) and self.lines[-1]["event"] == "ended"

    def youngest(self) -> int:
        """The process of the worker that was started last."""
        return int(self.events("is started")[-1].split("pid ")[1].split(")")[0])

    def send(self, number: signal.Signals) -> None:
        """Send the parent a signal."""
        self.process.send_signal(number)


@asynccontextmanager
async def served(folder: Path, workers: int) -> AsyncGenerator[Service]:
    """Run the service until the end of the block."""
    binds = ["--bind", "tcp://127.0.0.1:0", "--bind", f"unix://{folder}/orders.sock"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "grelmicro.service", "run", "orders.web", *binds),
        *("--forks", str(workers), "--config", "config.toml"),
        cwd=HERE,
        env=os.environ | {"APP_DATABASE_PATH": str(folder / "orders.db")},
        stderr=PIPE,
    )
    service = Service(process)
    listening = asyncio.create_task(service.listen())
    try:
        await service.until("all workers are ready")
        yield service
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await listening


class Load:
    """Clients that order one thing after the other, until the service is gone."""

    def __init__(self) -> None:
        self.moment = "before"
        self.counts: Counter[tuple[str, str]] = Counter()
        """Of orders and of failures, by the moment."""
        self.workers: set[int] = set()
        """The processes that have answered."""
        self.failures: list[str] = []
        self.stopping = False

    async def order(self, client: httpx.AsyncClient) -> None:
        """Order again and again."""
        while True:
            moment = self.moment
            try:
                answer = await client.post("/orders", json={"item": "tea"})
                answer.raise_for_status()
            except httpx.ConnectError as error:
                if self.stopping:
                    return
                self._failed(moment, error)
            except httpx.HTTPError as error:
                self._failed(moment, error)
            else:
                self.counts[moment, "taken"] += 1
                self.workers.add(answer.json()["worker"])
            await asyncio.sleep(0.002)

    def _failed(self, moment: str, error: Exception) -> None:
        self.counts[moment, "failed"] += 1
        self.failures.append(f"{moment}: {error!r}")


async def demonstrate(workers: int, clients: int) -> None:
    """Order, disturb, and count."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        load = Load()
        async with served(folder, workers) as service:
            (place,) = [line.split("//")[1] for line in service.events("listening on tcp")]
            console.print(
                f"{workers} workers take orders at http://{place} and at a Unix socket, "
                f"from {clients} clients each\n",
                soft_wrap=True,
            )
            async with (
                httpx.AsyncClient(base_url=f"http://{place}", timeout=PATIENCE) as over_tcp,
                httpx.AsyncClient(
                    base_url="http://orders",
                    transport=httpx.AsyncHTTPTransport(uds=f"{folder}/orders.sock"),
                    timeout=PATIENCE,
                ) as over_unix,
            ):
                await ordered(
                    load, [over_tcp, over_unix] * clients, disturb(service, load, workers)
                )
            await service.process.wait()
        check(service, load, folder)


async def ordered(
    load: Load, clients: list[httpx.AsyncClient], meanwhile: Coroutine[Any, Any, None]
) -> None:
    """Let clients order until the service is gone, and do something meanwhile."""
    ordering = [asyncio.create_task(load.order(client)) for client in clients]
    try:
        await meanwhile
        await asyncio.gather(*ordering)
    finally:
        for task in ordering:
            task.cancel()


async def disturb(service: Service, load: Load, workers: int) -> None:
    """Replace all workers, send one away, and stop them all."""
    await asyncio.sleep(0.5)
    load.moment = "HUP: all replaced"
    service.send(signal.SIGHUP)
    await service.until("exited with 0", workers)
    load.moment = "TERM to one worker"
    os.kill(service.youngest(), signal.SIGTERM)
    await service.until("exited with 0", workers + 1)
    await service.until("is started", 2 * workers + 1)
    load.moment = "after"
    await asyncio.sleep(0.5)
    load.moment = "TERM: the end"
    load.stopping = True
    service.send(signal.SIGTERM)


def check(service: Service, load: Load, folder: Path) -> None:
    """See that every order that was answered is there, and none failed.

    Raises:
        DemoError: It is otherwise.
    """
    show(load)
    if load.failures:
        raise DemoError(f"{len(load.failures)} orders failed: {load.failures[0]}")
    if service.process.returncode:
        raise DemoError(f"the service exited with {service.process.returncode}")
    connection = sqlite3.connect(folder / "orders.db")
    ((there,),) = connection.execute("SELECT count(*) FROM orders")
    connection.close()
    taken = sum(count for (_, what), count in load.counts.items() if what == "taken")
    if there != taken:
        raise DemoError(f"{taken} orders were taken, and {there} are there")
    if (folder / "orders.sock").exists():
        raise DemoError("the Unix socket was left behind")
    processes = len(load.workers)
    console.print(f"{taken} orders, taken by {processes} processes, are there: none failed")


def show(load: Load) -> None:
    """Print the table."""
    table = Table("moment", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("taken", "failed"):
        table.add_column(heading, justify="right")
    for moment in dict.fromkeys(moment for moment, _ in load.counts):
        table.add_row(moment, *(str(load.counts[moment, what]) for what in ("taken", "failed")))
    console.print(table)


def main() -> int:
    """Run the demonstration; the exit status says whether it went well."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    try:
        asyncio.run(demonstrate(options.workers, options.clients))
    except KeyboardInterrupt:
        return 130
    except (DemoError, TimeoutError, OSError) as error:
        why = str(error) or type(error).__name__
        Console(stderr=True).print(f"failed: {why}", style="red", markup=False, soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
