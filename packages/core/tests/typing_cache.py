"""Never run: what the type checkers have to make of the public interface."""

from collections.abc import Awaitable, Callable
from typing import Any, assert_type

from grelmicro import Grelmicro
from grelmicro.cache import Cache, CacheInfo, PydanticSerializer, TTLCache, cached
from grelmicro.cache.memory import MemoryCacheAdapter
from grelmicro.providers import Provider, from_url, load


class User:
    """A value."""


users = TTLCache[User](serializer=PydanticSerializer(User), backend=MemoryCacheAdapter())


@cached(users, key="{id}", lock=True)
async def find(id: int, *, deep: bool = False) -> User:  # noqa: A002  # a reader's own name
    """Keep its signature."""
    return User()


@cached(TTLCache())
def find_now(name: str) -> bytes:
    """Keep its signature."""
    return b""


async def caches(make: Callable[[], Awaitable[User]]) -> None:
    """Values keep their type."""
    assert_type(await users.get("k"), User | None)
    assert_type(await users.get_many(["k"]), dict[str, User])
    assert_type(await users.get_or_set("k", make), User)
    assert_type(users.cache_info(), CacheInfo)
    assert_type(await find(1, deep=True), User)
    assert_type(find_now("a"), bytes)


async def wiring() -> None:
    """What the composer and discovery return."""
    async with Grelmicro(uses=[from_url("memory://")]) as micro:
        assert_type(micro, Grelmicro)
        assert_type(Grelmicro.current(), Grelmicro)
    assert_type(load("memory"), type[Provider])
    assert_type(Cache(MemoryCacheAdapter()).ttl(), TTLCache[Any])
