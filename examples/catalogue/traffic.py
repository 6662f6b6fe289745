"""Requests for the catalogue, and what they took: a burst, and customers who browse."""

import asyncio
import random
import statistics
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from time import perf_counter
from urllib.parse import urlsplit

import httpx

PATIENCE = 20.0
"""Seconds after which a request is given up."""

CUSTOMERS = 20
VISITS = 20
PAUSE = (0.1, 0.25)
"""Seconds that a customer thinks before a request, at least and at most."""


class TrafficError(RuntimeError):
    """The application did not answer, or not as it should."""


@dataclass
class Series:
    """What some requests came to.

    Attributes:
        products: How many products they were for.
        hits: Requests that the cache answered at once.
        misses: Requests for which it had nothing yet.
        origin_calls: How often the origin was asked.
        seconds: What each request took.
    """

    products: int
    hits: int
    misses: int
    origin_calls: int
    seconds: Sequence[float]

    @property
    def requests(self) -> int:
        """How many there were."""
        return len(self.seconds)

    @property
    def folded(self) -> int:
        """Requests that got the answer to a question that another one had just asked."""
        return self.misses - self.origin_calls

    def milliseconds(self, percent: int) -> float:
        """The time within which that part of the requests was answered."""
        return statistics.quantiles(self.seconds, n=100)[percent - 1] * 1000


class Shop:
    """The running application, as its customers see it."""

    def __init__(self, address: str, client: httpx.AsyncClient) -> None:
        self._address = address
        self._client = client

    @classmethod
    @asynccontextmanager
    async def visit(cls, address: str) -> AsyncGenerator["Shop"]:
        """Talk to the application at `address`, for the block."""
        async with _client(address) as client:
            yield cls(address, client)

    async def is_open(self) -> bool:
        """Whether the application answers."""
        with suppress(httpx.TransportError):
            return (await self._client.get("/cache")).is_success
        return False

    async def clear(self) -> None:
        """Empty the cache."""
        (await self._client.delete("/cache")).raise_for_status()

    async def rush(self, path: str, count: int) -> Series:
        """Ask for one product on `count` connections at once.

        The same bytes go out on connections that stand already: httpx takes longer to send as many
        requests than the origin takes to answer one.
        """
        url = urlsplit(self._address)
        request = f"GET {path} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n\r\n".encode()
        before = await self._info()
        lines = [await asyncio.open_connection(url.hostname, url.port) for _ in range(count)]
        try:
            started = perf_counter()
            for _, writer in lines:
                writer.write(request)
            seconds = await asyncio.gather(*(_answered(reader, started) for reader, _ in lines))
        finally:
            for _, writer in lines:
                writer.close()
        return await self._series(1, seconds, before)

    async def browse(self, path: str, products: int) -> Series:
        """Let customers look at products, chosen at random, one after the other.

        They think in between, so that the times are the application's: otherwise they would
        be those of requests that wait for each other in this process.
        """
        chance = random.Random(products)
        customers = [
            [(chance.randint(1, products), chance.uniform(*PAUSE)) for _ in range(VISITS)]
            for _ in range(CUSTOMERS)
        ]
        before = await self._info()
        seconds = await asyncio.gather(*(self._customer(path, visits) for visits in customers))
        wanted = {product for visits in customers for product, _ in visits}
        return await self._series(len(wanted), list(chain(*seconds)), before)

    async def _customer(self, path: str, visits: Sequence[tuple[int, float]]) -> list[float]:
        seconds = []
        async with _client(self._address) as client:
            for product, pause in visits:
                await asyncio.sleep(pause)
                started = perf_counter()
                (await client.get(f"{path}/{product}")).raise_for_status()
                seconds.append(perf_counter() - started)
        return seconds

    async def _series(
        self, products: int, seconds: Sequence[float], before: dict[str, int]
    ) -> Series:
        after = await self._info()
        grown = {name: after[name] - before[name] for name in after}
        return Series(products, grown["hits"], grown["misses"], grown["origin_calls"], seconds)

    async def _info(self) -> dict[str, int]:
        info: dict[str, int] = (await self._client.get("/cache")).raise_for_status().json()
        return info


def _client(address: str) -> httpx.AsyncClient:
    """A client with one connection: for every request, httpx looks at all those that it keeps."""
    limits = httpx.Limits(max_connections=1)
    return httpx.AsyncClient(
        base_url=address,
        limits=limits,
        timeout=PATIENCE,
        trust_env=False,  # no proxy of the environment's between us and this machine
        verify=False,  # there is no TLS here, and loading certificates takes longer than a request
    )


async def _answered(reader: asyncio.StreamReader, started: float) -> float:
    async with asyncio.timeout(PATIENCE):
        answer = await reader.read()
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise TrafficError(f"the application answered {answer[:40]!r}")
    return perf_counter() - started
