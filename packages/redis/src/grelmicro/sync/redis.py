"""The synchronization backend that keeps its leases in Redis."""

import math
from binascii import crc32

from grelmicro.providers._adapter import ProviderAdapter
from grelmicro.providers._redis_listener import Heard
from grelmicro.providers.redis import RedisProvider, RedisScript
from grelmicro.sync._local import local_of
from grelmicro.sync._waiters import GRACE, Waiters

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
local kept = redis.call('GET', KEYS[3])
if kept then
  if kept ~= ARGV[3] then return '0' end
  redis.call('DEL', KEYS[3])
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
if ARGV[3] ~= '' then redis.call('ZREM', KEYS[2], ARGV[3]) end
local first = redis.call('ZPOPMIN', KEYS[2])[1]
if first then redis.call('SET', KEYS[3], first, 'PX', ARGV[2]) end
redis.call('PUBLISH', KEYS[1], first or '')
return 1
""")

_ENLIST = RedisScript("""
local now = redis.call('TIME')
redis.call('ZADD', KEYS[1], 'NX', now[1] * 1000000 + now[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], 60000)
""")


class RedisSyncAdapter(ProviderAdapter[RedisProvider]):
    """Locks on Redis, with the server's own clock.

    A lock is a key `{prefix}lock:{name}` (`tasklock:`, `leader:`). Processes that wait for it stand
    in `{prefix}queue:lock:{name}`. When it is given back, the first of them is told by a message,
    and `{prefix}kept:lock:{name}` keeps it for that one for a moment. `{prefix}fencing` counts
    holders for all names; on a cluster there are 64 such counters, each in one slot with its locks.

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
        self._waiters = Waiters(
            listen=self._listen,
            enlist=self._enlist,
            delist=self._delist,
            unlisten=self._unlisten,
            locked=lambda name: self.locked(name=name),
        )
        self._heard: dict[str, Heard] = {}

    async def closing(self) -> None:
        """End what runs in the background."""
        try:
            await local_of(self).settle()
        finally:
            self._waiters.close()
            for name in [*self._heard]:
                self._unlisten(name)

    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        """Take or extend the lease; its fencing token, 0 when somebody else holds it."""
        number = await self.provider.run(
            _ACQUIRE,
            keys=[self._key(name), self._key("fencing", name), self._key(f"kept:{name}", name)],
            args=[token, _milliseconds(duration), self._waiters.id],
            repeatable=True,  # the same token again gets the same answer
        )
        return int(number)

    async def hand_over(self, *, name: str, token: str, to: str, duration: float) -> int:
        """Release and acquire in one step; the new fencing token, 0 when `token` has no lease."""
        number = await self.provider.run(
            _HAND_OVER,
            keys=[self._key(name), self._key("fencing", name)],
            args=[token, to, _milliseconds(duration)],
            repeatable=True,
        )
        return int(number)

    async def release(self, *, name: str, token: str) -> bool:
        """Give the lease back; False when `token` does not hold it."""
        keys = [self._key(name), self._key(f"queue:{name}", name), self._key(f"kept:{name}", name)]
        args = (token, _milliseconds(GRACE), self._waiters.unless_waiting(name))
        return bool(await self.provider.run(_RELEASE, keys=keys, args=args))

    async def locked(self, *, name: str) -> bool:
        """Whether anybody holds the lease."""
        return bool(await self.provider.execute("EXISTS", self._key(name), repeatable=True))

    async def owned(self, *, name: str, token: str) -> bool:
        """Whether `token` holds the lease."""
        held: bytes | None = await self.provider.execute("GET", self._key(name), repeatable=True)
        return held is not None and held.partition(b" ")[2] == token.encode()

    async def wait(self, *, name: str, timeout: float) -> None:
        """Wait until the lease may be free, for `timeout` seconds at most."""
        await self._waiters.wait(name, timeout)

    def _listen(self, name: str) -> bool:
        if name not in self._heard:

            def heard(whom: bytes | None) -> None:
                if whom is None:
                    self._waiters.missed(name)
                else:
                    self._waiters.heard(name, whom.decode())

            self._heard[name] = heard
        return self.provider.listen(self._key(name), self._heard[name])

    def _unlisten(self, name: str) -> None:
        self.provider.unlisten(self._key(name), self._heard.pop(name))

    async def _enlist(self, name: str) -> None:
        key = self._key(f"queue:{name}", name)
        await self.provider.run(_ENLIST, keys=[key], args=[self._waiters.id], repeatable=True)

    async def _delist(self, name: str) -> None:
        key = self._key(f"queue:{name}", name)
        await self.provider.execute("ZREM", key, self._waiters.id, repeatable=True)

    def _key(self, what: str, name: str | None = None) -> str:
        """A key of a lock; all keys of one `name` are in one slot of a cluster."""
        if self.provider.is_cluster:
            bucket = crc32((name or what).encode()) % _BUCKETS
            return f"{self._prefix}{{{bucket}}}{what}"
        return f"{self._prefix}{what}"


def _milliseconds(duration: float) -> int:
    return max(1, math.ceil(duration * 1000))
