"""Start the catalogue, send it customers, and show what its cache did.

python demo.py            # in memory; GRELMICRO_URL=redis://... moves it to Redis
python demo.py --serve    # stay up, to be tried by hand
"""

import argparse
import asyncio
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import httpx
from rich import box
from rich.console import Console
from rich.table import Table
from traffic import CUSTOMERS, PATIENCE, Series, Shop, TrafficError

from grelmicro.providers import autodiscover

HERE = Path(__file__).parent
COLD_PRODUCT = 300
BURST = 100
PRODUCTS = 40
STOP_SECONDS = 5.0

console = Console(highlight=False, markup=False)


class DemoError(RuntimeError):
    """What went wrong, in words for the one who started the demonstration."""


async def check_backend() -> str:
    """Make sure that what GRELMICRO_URL names answers; its URL without credentials.

    The application would start without its backend, and serve without a cache.
    """
    try:
        async with asyncio.timeout(PATIENCE), autodiscover() as provider:
            await provider.ping()
    except Exception as error:  # whatever a backend raises, it cannot be used
        why = str(error) or type(error).__name__
        raise DemoError(f"the backend that GRELMICRO_URL names cannot be used: {why}") from None
    return provider.url


@asynccontextmanager
async def served(port: int) -> AsyncGenerator[tuple[str, asyncio.subprocess.Process]]:
    """Run the application under uvicorn, in a process that ends with the block."""
    with _listening(port) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = f"-m uvicorn app:app --fd {listener.fileno()} --log-level warning"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command.split(),
            cwd=HERE,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            process_group=0,  # Ctrl-C is for us, who end it
        )
    try:
        yield address, process
    finally:
        await _end(process)


def _listening(port: int) -> socket.socket:
    """Bind the port here, so that nobody can take it between the choice and the start."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        listener.close()
        why = error.strerror if isinstance(error, OSError) else "it is none"
        raise DemoError(f"port {port} cannot be used ({why})") from None
    return listener


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


async def _until_open(shop: Shop, process: asyncio.subprocess.Process) -> None:
    deadline = monotonic() + PATIENCE
    while not await shop.is_open():
        if process.returncode is not None:
            raise DemoError(f"the application ended at its start, with {process.returncode}")
        if monotonic() > deadline:
            raise DemoError(f"the application did not answer within {PATIENCE:.0f} s")
        await asyncio.sleep(0.02)


async def demonstrate(port: int) -> None:
    """Send a burst and customers to the application, and show what came of it."""
    backend = await check_backend()
    async with served(port) as (address, process), Shop.visit(address) as shop:
        await _until_open(shop, process)
        console.print(f"A catalogue at {address} (process {process.pid})")
        console.print(f"cached on {backend}, as its origin takes 50 ms\n", soft_wrap=True)
        await shop.clear()
        burst = await shop.rush(f"/products/{COLD_PRODUCT}", BURST)
        show_burst(burst)
        console.print(f"{CUSTOMERS} customers, {PRODUCTS} products, past the cache and through it:")
        without = await shop.browse("/uncached", PRODUCTS)
        through = await shop.browse("/products", PRODUCTS)
        await shop.clear()
    show_browsing(without, through)
    check_promises(burst, through)


def show_burst(burst: Series) -> None:
    """Say what became of the requests that came at once."""
    console.print(f"{burst.requests} requests at once for a product that is not cached yet:")
    console.print(f"{burst.folded} folded into one, origin calls: {burst.origin_calls}\n")


def show_browsing(without: Series, through: Series) -> None:
    """Print the table."""
    table = Table("", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("without cache", "with cache"):
        table.add_column(heading, justify="right")
    table.add_row("requests", f"{without.requests:,}", f"{through.requests:,}")
    table.add_row("origin calls", f"{without.origin_calls:,}", f"{through.origin_calls:,}")
    table.add_row("hit ratio", "", f"{through.hits / through.requests:.1%}")
    table.add_row("folded into one", "", f"{through.folded:,}")
    for percent in (50, 99):
        times = (f"{series.milliseconds(percent):.1f} ms" for series in (without, through))
        table.add_row(f"p{percent}", *times)
    console.print(table)


def check_promises(burst: Series, through: Series) -> None:
    """See that no product was asked for twice.

    Raises:
        DemoError: One was; the cache did not do what it is for.
    """
    for series in (burst, through):
        if series.origin_calls != series.products:
            raise DemoError(
                f"{series.origin_calls} origin calls for {series.products} products: "
                "does somebody else clear this cache?"
            )


async def serve(port: int) -> None:
    """Keep the application up until Ctrl-C."""
    backend = await check_backend()
    async with served(port) as (address, process):
        async with Shop.visit(address) as shop:
            await _until_open(shop, process)
        console.print(f"A catalogue (process {process.pid})")
        console.print(f"cached on {backend}. Try:\n", soft_wrap=True)
        for path in ("/products/7", "/uncached/7", "/cache", "/cache -X DELETE"):
            console.print(f"  curl {address}{path}", soft_wrap=True)
        console.print("\nCtrl-C ends it.")
        raise DemoError(f"the application ended by itself, with {await process.wait()}")


def main() -> int:
    """Run the demonstration; the exit status says whether it went well."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--serve", action="store_true", help="stay up, to be tried by hand")
    parser.add_argument("--port", type=int, default=0, help="by default a free one")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        asyncio.run((serve if options.serve else demonstrate)(options.port))
    except KeyboardInterrupt:
        return 0 if options.serve else 130
    except (DemoError, TrafficError, TimeoutError, OSError, httpx.HTTPError) as error:
        why = str(error) or type(error).__name__
        Console(stderr=True).print(f"failed: {why}", style="red", markup=False, soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
