"""Other caches, as their documentation uses them."""

from typing import Any

import aiocache
import cachebox
import cashews
from async_lru import alru_cache
from floors import KEY, VALUE, Case, bare

GET, CALL = "coroutine + dict", "bare coroutine"


async def cases() -> dict[str, Case]:
    """The cases, by name."""
    cashews_cache = cashews.Cache()
    cashews_cache.setup("mem://", size=1000, check_interval=60)
    await cashews_cache.init()
    await cashews_cache.set(KEY, VALUE, expire=3600)
    aio = aiocache.SimpleMemoryCache()
    await aio.set(KEY, VALUE, ttl=3600)

    async def function(id: Any) -> bytes:  # noqa: A002  # the template below names it
        return VALUE

    return {
        "cashews get hit": Case(cashews_cache.get, KEY, GET),
        "aiocache get hit": Case(aio.get, KEY, GET),
        "cashews @cache hit, template": Case(
            cashews_cache(ttl=3600, key="user:{id}")(function), 1, CALL
        ),
        "cashews @cache hit, default key": Case(cashews_cache(ttl=3600)(function), 1, CALL),
        "aiocache @cached hit": Case(aiocache.cached(ttl=3600)(function), 1, CALL),
        "async-lru hit, ttl": Case(alru_cache(maxsize=1000, ttl=3600)(bare), 1, CALL),
        "cachebox @cached hit": Case(
            cachebox.cached(cachebox.TTLCache(1000, 3600))(function), 1, CALL
        ),
    }
