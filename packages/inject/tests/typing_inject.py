"""Never run: what the type checkers have to make of the public interface."""

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Annotated, Any, assert_type

from grelmicro.inject import Container, Graph, Scope, Use, provider, register, useprovider


class Redis:
    """A value."""


@provider(scope="app")
async def redis() -> AsyncIterator[Redis]:
    """Keep its type."""
    yield Redis()


@provider
async def number(redis: Redis) -> int:
    """Keep its type."""
    return 1


@register
def make(redis: Redis) -> Redis:
    """Keep its type."""
    return redis


@useprovider(number, "redis")
async def view(request: object, redis: Annotated[Redis, Use("redis")]) -> bytes:
    """Keep its type."""
    return b""


async def declared() -> None:
    """Declared functions are still themselves."""
    assert_type(redis(), AsyncIterator[Redis])
    assert_type(await number(Redis()), int)
    assert_type(make(Redis()), Redis)
    assert_type(await view(1, Redis()), bytes)


async def container(c: Container) -> None:
    """What a container and its scopes return."""
    injected: Callable[..., Coroutine[Any, Any, bytes]] = c.inject(view)
    assert_type(await injected(1), bytes)
    assert_type(c.freeze(), Graph)
    async with c as same, c.scope(request=1) as scope:
        assert_type(same, Container)
        assert_type(scope, Scope)
        assert_type(await scope.get(Redis, size=3), Redis)
        with c.override(redis=Redis()) as again:
            assert_type(again, Container)
