"""The cache backend that keeps its entries in Redis."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import SecretStr

from grelmicro.providers._adapter import ProviderAdapter
from grelmicro.providers.redis import RedisProvider, RedisScript

__all__ = ["RedisCacheAdapter", "RedisCacheBackend"]

K = TypeVar("K", bound=str | bytes)

_BATCH = 500
"""Keys that one command names at most."""

_TOGETHER = 5_000
"""Commands that one call sends at once at most."""

_LONGEST_TTL = 10**15
"""Milliseconds, 30,000 years: what a server still takes for an expiry."""

_GET_WITH_TTL = RedisScript("return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}")


class RedisCacheAdapter(ProviderAdapter[RedisProvider]):
    """A cache on Redis, with the server's own expiry.

    Entries are kept under `{prefix}cache:{key}`. That part of the key space is the adapter's:
    `clear()` removes all of it, and nothing else of the database.

    Args:
        provider: The provider to borrow; by default one of its own, from the environment.
        env_prefix: What that environment's variables begin with.
        prefix: What all keys begin with, taken literally.

    Raises:
        RedisProviderConfigError: The environment does not say where the server is.
    """

    def __init__(
        self,
        *,
        provider: RedisProvider | None = None,
        env_prefix: str = "REDIS_",
        prefix: str = "",
    ) -> None:
        super().__init__(provider=provider, make=lambda: RedisProvider(env_prefix=env_prefix))
        self._prefix = f"{prefix}cache:"

    async def get(self, *, key: str) -> bytes | None:
        """Get the bytes under `key`; None when there are none, or they have expired."""
        value: bytes | None = await self.provider.execute(
            "GET", self._prefix + key, repeatable=True
        )
        return value

    async def get_with_ttl(self, *, key: str) -> tuple[bytes, float] | None:
        """Get the bytes and the seconds they will live; None when there are none."""
        value, left = await self.provider.run(
            _GET_WITH_TTL, keys=[self._prefix + key], repeatable=True
        )
        if value is None:
            return None
        return value, left / 1000 if left >= 0 else math.inf

    async def get_many(self, *, keys: Sequence[str]) -> Mapping[str, bytes]:
        """Get what there is under `keys`, in one round trip."""
        groups = self._groups([self._prefix + key for key in keys])
        replies = await self._all([("MGET", *names) for names in groups], repeatable=True)
        values = (value for reply in replies for value in reply)
        names = (name for group in groups for name in group)
        start = len(self._prefix)
        pairs = zip(names, values, strict=True)
        return {name[start:]: value for name, value in pairs if value is not None}

    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        """Store bytes for `ttl` seconds, in whole milliseconds, rounded up."""
        await self.provider.execute("SET", self._prefix + key, value, "PX", _milliseconds(ttl))

    async def set_many(self, *, entries: Mapping[str, bytes], ttl: float) -> None:
        """Store every entry for `ttl` seconds, in one round trip."""
        life = _milliseconds(ttl)
        await self._all(
            [("SET", self._prefix + key, value, "PX", life) for key, value in entries.items()]
        )

    async def touch(self, *, key: str, ttl: float) -> bool:
        """Let an entry live `ttl` seconds from now; False when there is none."""
        return bool(await self.provider.execute("PEXPIRE", self._prefix + key, _milliseconds(ttl)))

    async def delete(self, *, key: str) -> None:
        """Delete a key; nothing happens when it is absent."""
        await self.provider.execute("UNLINK", self._prefix + key)

    async def delete_many(self, *, keys: Sequence[str]) -> None:
        """Delete every key that is there, in one round trip."""
        await self._unlink([self._prefix + key for key in keys])

    async def clear(self, *, prefix: str = "") -> None:
        """Remove the entries whose key begins with `prefix`; all of the adapter's by default.

        The server is scanned in small steps, so that it goes on serving others; entries that are
        stored meanwhile may stay.
        """
        async for names in self.provider.scan(self._prefix + prefix):
            await self._unlink(names)

    async def _unlink(self, names: Sequence[K]) -> None:
        commands: list[tuple[Any, ...]] = [("UNLINK", *group) for group in self._groups(names)]
        await self._all(commands)

    def _groups(self, names: Sequence[K]) -> list[Sequence[K]]:
        """Full names of keys, as many together as one command may name."""
        return [
            group[start : start + _BATCH]
            for group in self.provider.together(names)
            for start in range(0, len(group), _BATCH)
        ]

    async def _all(self, commands: list[tuple[Any, ...]], *, repeatable: bool = False) -> list[Any]:
        replies: list[Any] = []
        for start in range(0, len(commands), _TOGETHER):
            batch = commands[start : start + _TOGETHER]
            replies += await self.provider.execute_many(batch, repeatable=repeatable)
        return replies


class RedisCacheBackend(RedisCacheAdapter):
    """The older form of `RedisCacheAdapter`, with a connection of its own.

    Args:
        url: The server, as a string or a pydantic DSN; by default the environment's `REDIS_URL`,
            or `REDIS_HOST`, `REDIS_PORT`, `REDIS_DB` and `REDIS_PASSWORD`.
        prefix: What all keys begin with, taken literally.

    Raises:
        RedisProviderConfigError: The URL cannot be used, or nothing says where the server is.
    """

    def __init__(self, url: object | None = None, *, prefix: str = "") -> None:
        # What tells two of them apart has to be the URL itself, not its asterisks.
        revealed = url.get_secret_value() if isinstance(url, SecretStr) else url
        super(RedisCacheAdapter, self).__init__(
            provider=None, make=lambda: RedisProvider(url), url=revealed
        )
        self._prefix = f"{prefix}cache:"


def _milliseconds(ttl: float) -> int:
    rounded = math.ceil(ttl * 1000)
    return rounded if 1 <= rounded <= _LONGEST_TTL else min(max(1, rounded), _LONGEST_TTL)
