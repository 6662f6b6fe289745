"""What this workspace is measured by."""

from floors import KEY, VALUE, Case, bare, bare_sync

from grelmicro import Grelmicro
from grelmicro.cache import JsonSerializer, TTLCache, cached
from grelmicro.cache.memory import MemoryCacheAdapter

GET, CALL, THREAD = "coroutine + dict", "bare coroutine", "loop trip"


def _cheap_key(function: object, args: object, kwargs: object) -> str:
    return KEY


async def cases() -> dict[str, Case]:
    """The cases, by name; the app and its backend stay open as long as the worker lives."""
    backend = MemoryCacheAdapter()
    await Grelmicro(uses=[backend]).__aenter__()
    cache = TTLCache(ttl=3600, backend=backend)
    bounded = TTLCache(maxsize=1000, ttl=3600, backend=backend, name="bounded")
    ambient = TTLCache(ttl=3600)
    json = TTLCache(ttl=3600, backend=backend, serializer=JsonSerializer(), name="json")
    for each in (cache, bounded):
        await each.set(KEY, VALUE)
    await json.set(KEY, {"id": 42, "name": "somebody"})
    return {
        "TTLCache.get hit": Case(cache.get, KEY, GET),
        "TTLCache.get hit, open app's backend": Case(ambient.get, KEY, GET),
        "TTLCache.get hit, maxsize": Case(bounded.get, KEY, GET),
        "TTLCache.get hit, JSON": Case(json.get, KEY, GET),
        "@cached hit, key_maker": Case(cached(cache, key_maker=_cheap_key)(bare), 1, CALL),
        "@cached hit, default key": Case(cached(cache)(bare), 1, CALL),
        "@cached hit, lock=True": Case(cached(cache, lock=True)(bare), 1, CALL),
        "@cached hit, open app's backend": Case(cached(ambient)(bare), 1, CALL),
        "@cached sync hit, thread": Case(cached(cache)(bare_sync), 1, THREAD, where="thread"),
    }
