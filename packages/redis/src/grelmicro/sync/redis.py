"""The synchronization backend that keeps its leases in Redis."""

import asyncio
import math
from binascii import crc32

from grelmicro.providers._adapter import ProviderAdapter
from grelmicro.providers.redis import RedisProvider, RedisScript
from grelmicro.sync._redis_waiters import Waiters

__all__ = ["RedisSyncAdapter"]

_BUCKETS = 64
"""Parts of a cluster's key space that its locks are spread over, each with a counter."""

# A lease is "NUMBER TOKEN", with the server's own expiry. The counter is ahead of the server's
# clock, in microseconds, so that numbers rise even when somebody flushes the database. Lua writes
# large numbers with 14 digits unless it is told otherwise.
_NEXT = """
local now = redis.call('TIME')
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
local number = string.format('%.0f', math.max(last + 1, now[1] * 1000000 + now[2]))
redis.call('SET', KEYS[2], number)
"""

_ACQUIRE = RedisScript(f"""
local held = redis.call('GET', KEYS[1])
if held then
  local number, token = string.match(held, '^(%d+) (.*)$')
  if token ~= ARGV[1] then return '0' end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return number
end
{_NEXT}
redis.call('SET', KEYS[1], number .. ' ' .. ARGV[1], 'PX', ARGV[2])
return number
""")

_HAND_OVER = RedisScript(f"""
local held = redis.call('GET', KEYS[1])
if not held then return '0' end
local before, token = string.match(held, '^(%d+) (.*)$')
if token == ARGV[2] then return before end
if token ~= ARGV[1] then return '0' end
{_NEXT}
redis.call('SET', KEYS[1], number .. ' ' .. ARGV[2], 'PX', ARGV[3])
return number
""")

_RELEASE = RedisScript("""
local held = redis.call('GET', KEYS[1])
if not held or string.match(held, '^%d+ (.*)$') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', KEYS[1], '')
return 1
""")


class RedisSyncAdapter(ProviderAdapter[RedisProvider]):
    """Locks on Redis, with the server's own clock.

    A lock is a key `{prefix}lock:{name}` (`tasklock:`, `leader:`), and a message on the channel of
    that name tells waiters that it was given back. `{prefix}fencing` counts holders for all names;
    on a cluster there are 64 such counters, each in one slot with the locks that it counts for.

    Redis replicates asynchronously: a lock that was granted just before its primary died may be
    granted again by the successor. The fencing token then still tells the two holders apart, as
    far as the servers' clocks agree.

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
        self._prefix = prefix
        self._waiters = Waiters()

    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        """Take or extend the lease; its fencing token, 0 when somebody else holds it."""
        number = await self.provider.run(
            _ACQUIRE,
            keys=self._keys(name),
            args=[token, _milliseconds(duration)],
            repeatable=True,  # the same token again gets the same answer
        )
        return int(number)

    async def hand_over(self, *, name: str, token: str, to: str, duration: float) -> int:
        """Release and acquire in one step; the new fencing token, 0 when `token` has no lease."""
        number = await self.provider.run(
            _HAND_OVER,
            keys=self._keys(name),
            args=[token, to, _milliseconds(duration)],
            repeatable=True,
        )
        return int(number)

    async def release(self, *, name: str, token: str) -> bool:
        """Give the lease back; False when `token` does not hold it."""
        return bool(await self.provider.run(_RELEASE, keys=self._keys(name)[:1], args=[token]))

    async def locked(self, *, name: str) -> bool:
        """Whether anybody holds the lease."""
        return bool(await self.provider.execute("EXISTS", self._keys(name)[0], repeatable=True))

    async def owned(self, *, name: str, token: str) -> bool:
        """Whether `token` holds the lease."""
        held: bytes | None = await self.provider.execute(
            "GET", self._keys(name)[0], repeatable=True
        )
        return held is not None and held.partition(b" ")[2] == token.encode()

    async def wait(self, *, name: str, timeout: float) -> None:
        """Wait until the lease may be free, for `timeout` seconds at most."""
        with self._waiters.waiting(self.provider, self._keys(name)[0]) as freed:
            await asyncio.wait([freed], timeout=timeout)

    def _keys(self, name: str) -> tuple[str, str]:
        """The keys of the lease and of its counter."""
        if self.provider.is_cluster:
            tag = f"{{{crc32(name.encode()) % _BUCKETS}}}"
            return f"{self._prefix}{tag}{name}", f"{self._prefix}{tag}fencing"
        return f"{self._prefix}{name}", f"{self._prefix}fencing"


def _milliseconds(duration: float) -> int:
    return max(1, math.ceil(duration * 1000))
