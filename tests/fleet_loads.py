"""One process of a fleet whose processes load one key: `python fleet_loads.py URL SPACE HOW`."""

import asyncio
import sys
from typing import Any

from grelmicro import Grelmicro
from grelmicro.cache import JsonSerializer, TTLCache, _fleet, cached
from grelmicro.providers import from_url

URL, SPACE, HOW = sys.argv[1:]


async def main() -> None:
    _fleet._LEASE = 1.0  # who dies is not waited for so long
    provider: Any = from_url(URL)
    spaced = {"prefix": SPACE} if provider.short_name == "redis" else {}
    tables = {} if spaced else {"table_name": f"{SPACE}.cache"}
    locks = {} if spaced else {"table_name": f"{SPACE}.locks"}
    cache: TTLCache[int] = TTLCache(ttl=60, serializer=JsonSerializer())

    async def load(key: str) -> int:
        print("loads", flush=True)
        if HOW == "hangs":
            await asyncio.Event().wait()
        await asyncio.sleep(0.2)
        return 42

    @cached(cache, key="{key}", lock="distributed")
    async def in_tasks(key: str) -> int:
        return await load(key)

    @cached(cache, key="{key}", lock="distributed")
    def in_threads(key: str) -> int:
        return asyncio.run(load(key))

    adapters = [provider.cache(**spaced, **tables), provider.sync(**spaced, **locks)]
    async with Grelmicro(uses=[provider, *adapters]):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        calls = [
            asyncio.to_thread(in_threads, "key") if HOW == "threads" else in_tasks("key")
            for _ in range(4)
        ]
        print("got", sum(await asyncio.gather(*calls)), flush=True)


asyncio.run(main())
