"""Start the catalogue, fire requests at it, and show what the cache did: `demo.py [--serve]`."""

import argparse
import asyncio
import contextlib
import signal
import socket
import statistics
import subprocess
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter

import httpx
from grelmicro.errors import GrelmicroError
from grelmicro.providers import autodiscover
from rich import box
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
PATIENCE = 20.0

COLD_PRODUCT = 199
BURST = 100
REQUESTS = 1_000
PRODUCTS = 40
UNCACHED_REQUESTS = 100
CONCURRENCY = 4

console = Console()


@dataclass
class Measured:
    """What one series of requests took, and what it cost the origin."""

    requests: int
    hits: int
    origin_calls: int
    seconds: list[float]

    @property
    def folded(self) -> int:
        """Requests that neither hit the cache nor asked the origin: they shared a load."""
        return self.requests - self.hits - self.origin_calls

    def percentile(self, percent: int) -> float:
        """Milliseconds within which that part of the requests was answered."""
        return statistics.quantiles(self.seconds, n=100)[percent - 1] * 1000


class ServerError(RuntimeError):
    """The server did not start; the text is what it printed."""


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(port: int) -> Generator[subprocess.Popen[str], None, None]:
    """The application under uvicorn, in a process of its own, for the block."""
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--no-access-log", "--log-level", "warning"],
        cwd=HERE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stderr is not None:
            process.stderr.close()


async def until_ready(client: httpx.AsyncClient, process: subprocess.Popen[str]) -> None:
    """Wait until the application answers.

    Raises:
        ServerError: It ended, or did not answer in time.
    """
    deadline = monotonic() + PATIENCE
    while monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            await client.get("/stats")
            return
        if process.poll() is not None:
            _, printed = process.communicate()
            raise ServerError(printed.strip())
        await asyncio.sleep(0.02)
    raise ServerError(f"no answer within {PATIENCE:.0f} s")


async def measure(client: httpx.AsyncClient, paths: Sequence[str], *, at_once: int) -> Measured:
    """Fire requests, `at_once` at a time."""
    before = (await client.get("/stats")).json()
    gate = asyncio.Semaphore(at_once)

    async def fire(path: str) -> float:
        async with gate:
            started = perf_counter()
            (await client.get(path)).raise_for_status()
            return perf_counter() - started

    seconds = await asyncio.gather(*map(fire, paths))
    after = (await client.get("/stats")).json()
    return Measured(
        requests=len(paths),
        hits=after["hits"] - before["hits"],
        origin_calls=after["origin_calls"] - before["origin_calls"],
        seconds=seconds,
    )


async def run(client: httpx.AsyncClient) -> dict[str, Measured]:
    """The three series of the demonstration."""
    burst = [f"/products/{COLD_PRODUCT}"] * BURST
    cached = [f"/products/{number % PRODUCTS}" for number in range(REQUESTS)]
    uncached = [f"/uncached/{number % PRODUCTS}" for number in range(UNCACHED_REQUESTS)]
    return {
        "one cold product": await measure(client, burst, at_once=BURST),
        f"{PRODUCTS} products": await measure(client, cached, at_once=CONCURRENCY),
        "uncached": await measure(client, uncached, at_once=CONCURRENCY),
    }


def show(series: dict[str, Measured], backend: str) -> None:
    """Print the table."""
    table = Table(box=box.SIMPLE_HEAD, title=f"A catalogue on {backend}")
    table.add_column("", no_wrap=True)
    for heading in ("requests", "origin", "folded", "hits", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, measured in series.items():
        cached = name != "uncached"
        table.add_row(
            name,
            str(measured.requests),
            str(measured.origin_calls),
            str(measured.folded) if cached else "-",
            f"{measured.hits / measured.requests:.1%}" if cached else "-",
            f"{measured.percentile(50):.1f}",
            f"{measured.percentile(99):.1f}",
        )
    console.print(table)
    console.print(
        f"{CONCURRENCY} requests at a time ({BURST} for the burst). origin: queries of 50 ms that "
        "were run; folded: requests that shared somebody else's query."
    )


async def check() -> None:
    """See that the backend is there, for a clearer word than the server's."""
    async with asyncio.timeout(PATIENCE), autodiscover() as provider:
        await provider.ping()


async def demonstrate(port: int) -> None:
    """Start the application, measure it, show what came of it."""
    with served(port) as process:
        limits = httpx.Limits(max_connections=BURST)
        base = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=base, limits=limits, timeout=PATIENCE) as client:
            await until_ready(client, process)
            show(await run(client), autodiscover().url)


async def serve(port: int) -> None:
    """Keep the application up until Ctrl-C."""
    with served(port) as process:
        base = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=base) as client:
            await until_ready(client, process)
        console.print(f"The catalogue is up, on {autodiscover().url}. Try:")
        for path in ("products/7", "uncached/7", "stats"):
            console.print(f"  curl {base}/{path}", soft_wrap=True)
        console.print("Ctrl-C ends it.")
        await asyncio.to_thread(process.wait)


def main() -> int:
    """Run the demonstration; the exit status says whether it went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="stay up instead of measuring")
    parser.add_argument("--port", type=int, help="by default a free one")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    port = options.port or free_port()
    try:
        asyncio.run(check())
    except Exception as error:  # whatever a backend raises, there is none to demonstrate on
        return failed("the backend that GRELMICRO_URL names", error)
    try:
        asyncio.run(serve(port) if options.serve else demonstrate(port))
    except KeyboardInterrupt:
        return 0 if options.serve else 130
    except (ServerError, httpx.HTTPError, GrelmicroError, ValueError) as error:
        return failed("the demonstration", error)
    return 0


def failed(what: str, error: BaseException) -> int:
    """Say what did not work."""
    text = f"{what} failed: {type(error).__name__}: {error}"
    console.print(text, style="red", markup=False, soft_wrap=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
