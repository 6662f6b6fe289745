"""The rate limiter backend that keeps its quotas in Redis."""

from grelmicro.providers._adapter import ProviderAdapter
from grelmicro.providers.redis import RedisProvider, RedisScript
from grelmicro.resilience._limits import RateLimitConfig
from grelmicro.resilience._quotas import Bucket, Window, quota_of
from grelmicro.resilience._result import RateLimitResult

__all__ = ["RedisRateLimiterAdapter"]

# All numbers are whole and below 2**53, which a double holds exactly. They are kept as two doubles,
# as Lua would write them with 14 digits, and come back as integers. A cost of 0 only looks.
#
# What is owed at a time that is yet to come, since the clock was set back, is what is owed now and
# what was forgiven since: nobody gets more for it, and at most a full bucket is owed.
#
# The answer is what is owed after the decision; -1 less that much if it was refused. One number is
# answered much faster than several.
_BUCKET = RedisScript("""
local key, call = KEYS[1], redis.call
local full, rate, cost = ARGV[1] + 0, ARGV[2] + 0, ARGV[3] + 0
local time, held = call('TIME'), call('GET', key)
local now = time[1] * 1000000 + time[2]
local owed, at = 0, now
if held and #held == 16 then
  owed, at = struct.unpack('<dd', held)
  owed = owed - (now - at) * rate
  if owed < 0 then owed = 0 elseif owed > full then owed = full end
end
local allowed = owed + cost <= full
if allowed then owed = owed + cost end
if cost > 0 and (allowed or now < at) then
  call('PSETEX', key, math.ceil(owed / rate / 1000) + 1, struct.pack('<dd', owed, now))
end
return allowed and owed or -1 - owed
""")

# A window that ends later than one that begins now is from before the clock was set back. The
# answer is as above, and what is left of the window.
_WINDOW = RedisScript("""
local key, call = KEYS[1], redis.call
local limit, length, cost = ARGV[1] + 0, ARGV[2] + 0, ARGV[3] + 0
local time, held = call('TIME'), call('GET', key)
local now = time[1] * 1000000 + time[2]
local taken, ends = 0, 0
if held and #held == 16 then taken, ends = struct.unpack('<dd', held) end
if ends <= now then taken, ends = 0, now + length end
local set_back = ends > now + length
if set_back then ends = now + length end
local allowed = taken + cost <= limit
if allowed then taken = taken + cost end
if cost > 0 and (allowed or set_back) then
  call('PSETEX', key, math.ceil((ends - now) / 1000) + 1, struct.pack('<dd', taken, ends))
end
return {allowed and taken or -1 - taken, ends - now}
""")


class RedisRateLimiterAdapter(ProviderAdapter[RedisProvider]):
    """Rate limits on Redis, with the server's own clock.

    A decision is one script call, and what concurrent callers ask travels together. Quotas are kept
    under `{prefix}ratelimit:` by their numbers, the limiter's name and the key, each as long as it
    is not full.

    Redis replicates asynchronously: what was taken just before a primary died may be given again by
    its successor.

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
        self._prefix = f"{prefix}ratelimit:"

    def bind(self, config: RateLimitConfig) -> "RedisBuckets | RedisWindows":
        """The strategy of a configuration; what it knows is on the server."""
        quota = quota_of(config)
        prefix = f"{self._prefix}{quota.tag}:"
        if isinstance(quota, Bucket):
            return RedisBuckets(self, prefix, quota)
        return RedisWindows(self, prefix, quota)


class _Keys:
    """The keys of one configuration, for an adapter with whatever provider it has then."""

    def __init__(self, adapter: RedisRateLimiterAdapter, prefix: str) -> None:
        self._adapter = adapter
        self._prefix = prefix

    async def reset(self, *, key: str) -> None:
        """Remove what is known of the key."""
        await self._adapter.provider.execute("UNLINK", self._prefix + key, repeatable=True)


class RedisBuckets(_Keys):
    """A token bucket, or a sliding window, for each key."""

    def __init__(self, adapter: RedisRateLimiterAdapter, prefix: str, quota: Bucket) -> None:
        super().__init__(adapter, prefix)
        self._quota = quota
        self._full, self._rate = str(quota.full), str(quota.rate)

    async def acquire(self, *, key: str, cost: int) -> RateLimitResult:
        """Take permits if they are there."""
        quota = self._quota
        owed: int = await self._adapter.provider.run(
            _BUCKET,
            keys=(self._prefix + key,),
            args=(self._full, self._rate, cost * quota.unit),
        )
        if owed < 0:
            return quota.result(0, -1 - owed, 0, cost)
        return quota.result(1, owed, 0, cost)

    async def peek(self, *, key: str, cost: int) -> RateLimitResult:
        """Tell what there is."""
        owed: int = await self._adapter.provider.run(
            _BUCKET,
            keys=(self._prefix + key,),
            args=(self._full, self._rate, 0),
            repeatable=True,
        )
        return self._quota.look(owed, 0, cost)


class RedisWindows(_Keys):
    """A fixed window for each key."""

    def __init__(self, adapter: RedisRateLimiterAdapter, prefix: str, quota: Window) -> None:
        super().__init__(adapter, prefix)
        self._quota = quota

    async def acquire(self, *, key: str, cost: int) -> RateLimitResult:
        """Take permits if they are there."""
        taken, left = await self._run(key, cost)
        if taken < 0:
            return self._quota.result(0, -1 - taken, left, cost)
        return self._quota.result(1, taken, left, cost)

    async def peek(self, *, key: str, cost: int) -> RateLimitResult:
        """Tell what there is."""
        return self._quota.look(*await self._run(key, 0), cost)

    async def _run(self, key: str, cost: int) -> tuple[int, int]:
        taken, left = await self._adapter.provider.run(
            _WINDOW,
            keys=(self._prefix + key,),
            args=(self._quota.limit, self._quota.unit, cost),
            repeatable=not cost,
        )
        return taken, left
