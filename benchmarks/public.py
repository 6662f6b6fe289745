"""The public grelmicro 0.22, whose import name is ours."""

from floors import KEY, VALUE, Case, bare, bare_sync

from grelmicro.cache import TTLCache, cached
from grelmicro.cache.memory import MemoryCacheAdapter

GET, CALL, THREAD = "coroutine + dict", "bare coroutine", "loop trip"


def _cheap_key(function: object, args: object, kwargs: object) -> str:
    return KEY


async def cases() -> dict[str, Case]:
    """The cases, by name."""
    backend = MemoryCacheAdapter()
    await backend.__aenter__()
    cache = TTLCache(ttl=3600, backend=backend)
    await cache.set(KEY, VALUE)
    return {
        "grelmicro 0.22 get hit": Case(cache.get, KEY, GET),
        "grelmicro 0.22 @cached hit, key_maker": Case(
            cached(cache, key_maker=_cheap_key)(bare), 1, CALL
        ),
        "grelmicro 0.22 @cached hit, default key": Case(cached(cache)(bare), 1, CALL),
        "grelmicro 0.22 @cached sync hit, thread": Case(
            cached(cache)(bare_sync), 1, THREAD, where="thread"
        ),
    }
