"""The cache backend that keeps its entries in Redis."""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import SecretStr

from grelmicro.providers._adapter import ProviderAdapter
from grelmicro.providers.redis import RedisProvider

__all__ = ["RedisCacheAdapter", "RedisCacheBackend"]

_BATCH = 500
"""Keys a command names at most, and commands in flight for one call at most."""

_SCAN_COUNT = 1_000

_LONGEST_TTL = 10**15
"""Milliseconds, 30,000 years: what a server still takes for an expiry."""

_GET_WITH_TTL = "return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}"


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
        value: bytes | None = await self._execute("GET", self._prefix + key, repeatable=True)
        return value

    async def get_with_ttl(self, *, key: str) -> tuple[bytes, float] | None:
        """Get the bytes and the seconds they will live; None when there are none."""
        value, left = await self._execute(
            "EVAL", _GET_WITH_TTL, 1, self._prefix + key, repeatable=True
        )
        if value is None:
            return None
        return value, left / 1000 if left >= 0 else math.inf

    async def get_many(self, *, keys: Sequence[str]) -> Mapping[str, bytes]:
        """Get what there is under `keys`, 500 in a round trip."""
        found: dict[str, bytes] = {}
        for batch in _batches(keys):
            values = await self._execute("MGET", *map(self._full, batch), repeatable=True)
            pairs = zip(batch, values, strict=True)
            found |= {key: value for key, value in pairs if value is not None}
        return found

    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        """Store bytes for `ttl` seconds, in whole milliseconds, rounded up."""
        await self._execute("SET", self._prefix + key, value, "PX", _milliseconds(ttl))

    async def set_many(self, *, entries: Mapping[str, bytes], ttl: float) -> None:
        """Store every entry for `ttl` seconds, 500 at a time."""
        for batch in _batches(list(entries)):
            await _all(self.set(key=key, value=entries[key], ttl=ttl) for key in batch)

    async def touch(self, *, key: str, ttl: float) -> bool:
        """Let an entry live `ttl` seconds from now; False when there is none."""
        return bool(await self._execute("PEXPIRE", self._prefix + key, _milliseconds(ttl)))

    async def delete(self, *, key: str) -> None:
        """Delete a key; nothing happens when it is absent."""
        await self._execute("UNLINK", self._prefix + key)

    async def delete_many(self, *, keys: Sequence[str]) -> None:
        """Delete every key that is there, 500 in a round trip."""
        for batch in _batches(keys):
            await self._execute("UNLINK", *map(self._full, batch))

    async def clear(self, *, prefix: str = "") -> None:
        """Remove the entries whose key begins with `prefix`; all of the adapter's by default.

        The server is scanned in small steps, so that it goes on serving others; entries that are
        stored meanwhile may stay.
        """
        async for names in self._scan(self._full(prefix)):
            for batch in _batches(names):
                await self._execute("UNLINK", *batch)

    async def _scan(self, prefix: str) -> AsyncIterator[list[bytes]]:
        """The names of all keys that begin with `prefix`, by and by."""
        pattern, cursor = _escaped(prefix) + "*", "0"
        while True:
            reply = await self._execute(
                "SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT, repeatable=True
            )
            cursor = str(int(reply[0]))
            yield reply[1]
            if cursor == "0":
                return

    def _full(self, key: str) -> str:
        return self._prefix + key

    async def _execute(self, *args: str | bytes | float, repeatable: bool = False) -> Any:
        return await self.provider.execute(*args, repeatable=repeatable)


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


async def _all(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines together; none is left behind, and the first error is raised as it is."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
    finally:
        for task in tasks:
            task.cancel()


def _batches(keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (keys[start : start + _BATCH] for start in range(0, len(keys), _BATCH))


def _milliseconds(ttl: float) -> int:
    return min(max(1, math.ceil(ttl * 1000)), _LONGEST_TTL)


def _escaped(prefix: str) -> str:
    """Take from a prefix the meaning that a glob pattern would give it."""
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", prefix)
