"""A fleet: one server, and as many providers of it as a test wants."""

from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from grelmicro.providers import from_url
from grelmicro.testing.proxy import FaultProxy


class Fleet(NamedTuple):
    """One server; each `backend()` is another replica's."""

    kind: str
    server: Any
    space: str
    stack: AsyncExitStack

    @property
    def url(self) -> str:
        url: str = self.server.url
        return url

    async def backend(self, url: str | None = None, **settings: Any) -> Any:
        """Another replica's backend of locks, open until the end of the test."""
        make: Any = type(from_url(self.url))
        provider = make(url or self.url, **settings)
        await self.stack.enter_async_context(provider)
        name = "prefix" if self.kind == "redis" else "table_name"
        space = self.space if self.kind == "redis" else f"{self.space}.locks"
        return await self.stack.enter_async_context(provider.sync(**{name: space}))

    def breaker_space(self) -> tuple[str, str]:
        """What keeps breakers apart from those of other tests."""
        if self.kind == "redis":
            return "prefix", self.space
        return "table_name", f"{self.space}.breakers"

    async def breakers(
        self, url: str | None = None, *, timeout: float = 5.0, **settings: Any
    ) -> Any:
        """Another replica's backend of breakers, open until the end of the test."""
        make: Any = type(from_url(self.url))
        provider = make(url or self.url, timeout=timeout)
        await self.stack.enter_async_context(provider)
        option, space = self.breaker_space()
        backend = provider.breaker(**{option: space}, **settings)
        return await self.stack.enter_async_context(backend)

    async def forget_breakers(self) -> None:
        """Let somebody empty the part of the server that breakers are in."""
        provider: Any = from_url(self.url)
        async with provider:
            if self.kind == "redis":
                async for names in provider.scan(self.space):
                    for name in names:
                        await provider.execute("DEL", name)
            else:
                await provider.execute(f"TRUNCATE {self.breaker_space()[1]}")

    async def proxy(self) -> FaultProxy:
        """A network of our own on the way to the server."""
        return await self.stack.enter_async_context(FaultProxy(self.server.host, self.server.port))

    async def remove_all(self) -> None:
        """Let somebody empty the server."""
        provider: Any = from_url(self.url)
        async with provider:
            if self.kind == "redis":
                await provider.execute("FLUSHALL")
            else:
                await provider.execute(f"TRUNCATE {self.space}.locks")

    async def places(self, name: str) -> int:
        """How many processes stand in the server's line for a lease."""
        provider: Any = from_url(self.url)
        async with provider:
            if self.kind == "redis":
                places: int = await provider.execute("ZCARD", f"{self.space}queue:{name}")
                return places
            query = f"SELECT cardinality(waiting) FROM {self.space}.locks WHERE name = $1"
            rows = await provider.fetch(query, name)
            return rows[0][0] if rows else 0
