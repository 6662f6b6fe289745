"""The rate limiter backend that keeps its quotas in Redis."""

from collections.abc import Sequence

from grelmicro.providers._adapter import ProviderAdapter
from grelmicro.providers.redis import RedisProvider, RedisScript
from grelmicro.resilience._limits import RateLimitConfig
from grelmicro.resilience._quotas import Bucket, Quota, quota_of
from grelmicro.resilience._result import RateLimitResult

__all__ = ["RedisRateLimiterAdapter", "RedisStrategy"]

# All numbers are whole and below 2**53, which a double holds exactly. They are written by '%.0f',
# as Lua by itself writes 14 digits, and come back as integers. A cost of 0 only looks.
#
# What is owed at a time that is yet to come, since the clock was set back, is what is owed now and
# what was forgiven since: nobody gets more for it, and at most a full bucket is owed.
_BUCKET = RedisScript("""
local full, rate, unit = tonumber(ARGV[1]) * tonumber(ARGV[3]), tonumber(ARGV[2]), ARGV[3]
local cost = ARGV[4] * unit
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local owed, at = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (%d+)$')
if owed then
  owed, at = math.max(0, math.min(full, owed - (now - at) * rate)), tonumber(at)
else
  owed, at = 0, now
end
local allowed = owed + cost <= full
if allowed then owed = owed + cost end
if cost > 0 and (allowed or now < at) then
  local life = string.format('%.0f', math.ceil(owed / rate / 1000) + 1)
  redis.call('SET', KEYS[1], string.format('%.0f %.0f', owed, now), 'PX', life)
end
return {allowed and 1 or 0, owed, 0}
""")

# A window that ends later than one that begins now is from before the clock was set back.
_WINDOW = RedisScript("""
local limit, length, cost = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local taken, ends = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (%d+)$')
taken, ends = tonumber(taken or 0), tonumber(ends or 0)
if ends <= now then taken, ends = 0, now + length end
local set_back = ends > now + length
if set_back then ends = now + length end
local allowed = taken + cost <= limit
if allowed then taken = taken + cost end
if cost > 0 and (allowed or set_back) then
  local life = string.format('%.0f', math.ceil((ends - now) / 1000) + 1)
  redis.call('SET', KEYS[1], string.format('%.0f %.0f', taken, ends), 'PX', life)
end
return {allowed and 1 or 0, taken, ends - now}
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

    def bind(self, config: RateLimitConfig) -> "RedisStrategy":
        """The strategy of a configuration; what it knows is on the server."""
        quota = quota_of(config)
        return RedisStrategy(self, f"{self._prefix}{quota.tag}:", quota)


class RedisStrategy:
    """Decides by a script.

    Args:
        adapter: Whose provider carries it: the one that it has then.
        prefix: What the keys begin with.
        quota: The numbers to decide with.
    """

    def __init__(self, adapter: RedisRateLimiterAdapter, prefix: str, quota: Quota) -> None:
        self._adapter = adapter
        self._prefix = prefix
        self._quota = quota
        self._script = _BUCKET if isinstance(quota, Bucket) else _WINDOW

    async def acquire(self, *, key: str, cost: int) -> RateLimitResult:
        """Take permits if they are there."""
        allowed, amount, left = await self._run(key, cost)
        return self._quota.result(allowed, amount, left, cost)

    async def peek(self, *, key: str, cost: int) -> RateLimitResult:
        """Tell what there is."""
        _, amount, left = await self._run(key, 0)
        return self._quota.look(amount, left, cost)

    async def reset(self, *, key: str) -> None:
        """Remove what is known of the key."""
        await self._adapter.provider.execute("UNLINK", self._prefix + key, repeatable=True)

    async def _run(self, key: str, cost: int) -> Sequence[int]:
        reply: Sequence[int] = await self._adapter.provider.run(
            self._script,
            keys=(self._prefix + key,),
            args=(*self._quota, cost),
            repeatable=not cost,
        )
        return reply
