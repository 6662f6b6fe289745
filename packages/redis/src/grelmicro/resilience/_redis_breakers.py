"""The circuit breaker backend that keeps its state in Redis."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Self

from grelmicro.providers._adapter import ProviderAdapter
from grelmicro.providers._redis_commands import Argument
from grelmicro.providers._redis_listener import Heard
from grelmicro.providers.redis import RedisProvider, RedisScript
from grelmicro.resilience._breaker_config import CircuitBreakerConfig
from grelmicro.resilience._circuit import Circuit
from grelmicro.resilience._fleet import Fleet
from grelmicro.resilience._numbers import check_lease, numbers_of
from grelmicro.resilience._reports import STATES, Answer, Record, Report

__all__ = ["RedisCircuitBreakerAdapter"]

_KEEP = 3_600_000_000
"""Microseconds for which a circuit is remembered that nobody reports of."""

# A circuit is a hash: its version `v`, state `s`, the time `u` at which its open time is over, its
# errors in a row `e`, its probes that went well `g`, the shape `h` of its window, the permits
# `p:TOKEN` with the times at which they are over, and parts of the window `w:NUMBER`. States are
# numbers: 0 closed, 1 open, 2 half-open, 3 forced open, 4 forced closed. All numbers are whole and
# below 2**53, which a double holds exactly; Lua writes large ones with 14 digits unless it is told.
#
# A time that is too far ahead is from before the clock was set back. Versions are ahead of the
# clock, so that they also rise when somebody has emptied the database.
_NOW = """
local key, call = KEYS[1], redis.call
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local record, flat = {}, call('HGETALL', key)
for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
local function number(field) return tonumber(record[field] or '0') end
local version, state, ends = number('v'), number('s'), number('u')
local errors, good = number('e'), number('g')
"""

_LOOK = RedisScript(f"""
{_NOW}
return {{version, state, state == 1 and math.max(0, ends - now) or 0, errors, good}}
""")

_EXCHANGE = RedisScript(f"""
{_NOW}
local function given(i) return tonumber(ARGV[i]) end
local keep, lease, timeout, capacity, threshold = given(1), given(2), given(3), given(4), given(5)
local most_errors, failure_rate, slow_rate = given(6), given(7), given(8)
local fewest, width, size, shape = given(9), given(10), given(11), ARGV[12]
local base, command, trip, fresh = given(13), given(14), given(15) == 1, given(16) == 1
local theirs, remaining = given(17), given(18)
local reset, new_errors = given(19) == 1, given(20)
local calls, failures, slow = given(21), given(22), given(23)
local next_arg = 24
local function take() next_arg = next_arg + 1; return ARGV[next_arg - 1] end

local function text(n) return string.format('%.0f', n) end
local dirty, slots, permits, held = false, {{}}, {{}}, 0
local known, before = version, version
local function change(to, microseconds)
  version = math.max(version + 1, now)
  state, ends, errors, good, slots, dirty = to, now + microseconds, 0, 0, {{}}, true
end

if state == 1 and ends > now + timeout then ends, dirty = now + timeout, true end
if version == 0 and theirs > 0 then
  change(theirs, remaining)
  before = version
  base = version
end
for field, value in pairs(record) do
  local kind, name = string.match(field, '^(%a):(.*)$')
  if kind == 'p' and tonumber(value) > now then
    permits[name] = math.min(tonumber(value), now + lease)
    held = held + 1
  elseif kind == 'w' and record.h == shape then
    slots[tonumber(name)] = value
  end
end
for _ = 1, tonumber(take()) do
  local token = take()
  if not permits[token] then held = held + 1 end
  permits[token], dirty = now + lease, true
end

local matches = base == version or (base == 0 and state == 0)
if command >= 0 then
  change(command, remaining)
elseif trip and matches and state < 3 and not (state == 1 and ends > now) then
  change(1, remaining)
end

for _ = 1, tonumber(take()) do
  local token, says = take(), tonumber(take())
  if permits[token] then
    permits[token], held, dirty = nil, held - 1, true
    if state == 2 and base == version and says == 2 then
      change(1, timeout)
    elseif state == 2 and base == version and says == 1 then
      good = good + 1
      if good >= threshold then change(0, 0) end
    end
  end
end

local counts = matches and version == before
if fresh then counts = version ~= before end
if counts and state == 0 and width == 0 and (reset or new_errors > 0) then
  if reset and errors > 0 then errors, dirty = 0, true end
  if new_errors > 0 then errors, dirty = errors + new_errors, true end
  if errors >= most_errors then change(1, timeout) end
elseif counts and state == 0 and width > 0 and calls > 0 then
  local latest = -1
  for id in pairs(slots) do if id > latest then latest = id end end
  local id = size > 0 and math.max(latest, 0) or math.floor(now / width)
  local function parts(of)
    local a, b, c = string.match(slots[of] or '0 0 0', '(%d+) (%d+) (%d+)')
    return tonumber(a), tonumber(b), tonumber(c)
  end
  if size > 0 and parts(id) >= size then id = id + 1 end
  local a, b, c = parts(id)
  slots[id] = text(a + calls) .. ' ' .. text(b + failures) .. ' ' .. text(c + slow)
  local all, failed, slowed = 0, 0, 0
  for each in pairs(slots) do
    if each <= id - 10 or each > id then
      slots[each] = nil
    else
      local x, y, z = parts(each)
      all, failed, slowed = all + x, failed + y, slowed + z
    end
  end
  dirty = true
  if all >= fewest and (failed / all >= failure_rate or slowed / all >= slow_rate) then
    change(1, timeout)
  end
end

local granted = {{}}
for i = 1, tonumber(take()) do
  local token = take()
  if state == 1 and ends <= now then change(2, 0) end
  granted[i] = 0
  if state == 2 and held < capacity then
    permits[token], held, granted[i], dirty = now + lease, held + 1, 1, true
  end
end

if dirty then
  if version == 0 then version = now end
  local fields = {{'v', text(version), 's', text(state), 'u', text(ends), 'e', text(errors),
    'g', text(good), 'h', shape}}
  local function add(field, value) fields[#fields + 1] = field; fields[#fields + 1] = value end
  for token, value in pairs(permits) do add('p:' .. token, text(value)) end
  for id, value in pairs(slots) do add('w:' .. text(id), value) end
  call('DEL', key)
  for i = 1, #fields, 2 do call('HSET', key, fields[i], fields[i + 1]) end
  if state < 3 then call('PEXPIRE', key, math.ceil((timeout + keep) / 1000)) end
end
local left = state == 1 and math.max(0, ends - now) or 0
if version ~= known then
  call('PUBLISH', key, table.concat({{text(version), state, text(left), errors, good}}, ' '))
end
return {{version, state, left, errors, good, unpack(granted)}}
""")


class RedisCircuitBreakerAdapter(ProviderAdapter[RedisProvider]):
    """Circuit breakers that all replicas share, on Redis, with the server's own clock.

    A breaker is one key `{prefix}breaker:{name}`, which is also the channel that its changes are
    told on. What happens in a process takes effect there at once, and is reported in the
    background:

    - An error at once, together with those that happen meanwhile. A success only when it follows an
      error of this process: it ends the fleet's row of errors. So errors of several replicas add up
      as long as none of these replicas has a success in between.
    - Where rates count, what calls became, a quarter of a second after the first of them. The
      fleet's window is made of ten parts: of so many calls each, or of so much time. The breaker
      opens when the rate of the process, or of the fleet, is too high.
    - Permits of a half-open breaker are granted by the server, so many in the whole fleet. A
      replica renews those it holds; when it dies, they are free after `permit_lease`.

    Other replicas hear of a change at once. One that missed it, as its subscription was lost, sees
    it within 5 seconds, or within half a second where no messages are heard. Successful calls of a
    closed breaker have nothing to wait for and nothing to send, unless rates count.

    While the server cannot be asked, each process goes by what it knows, and says so once in the
    log; what it opened meanwhile, it reports then. Breakers that nobody reports of are forgotten
    after an hour, except forced ones.

    Args:
        provider: The provider to borrow; by default one of its own, from the environment.
        env_prefix: What that environment's variables begin with.
        prefix: What all keys begin with, taken literally.
        permit_lease: Seconds after which the permits of a replica that died are free, from 0.1 to a
            day. A replica whose event loop stands still for as long loses them, too.

    Raises:
        ResilienceSettingsValidationError: `permit_lease` is out of range.
        RedisProviderConfigError: The environment does not say where the server is.
    """

    def __init__(
        self,
        *,
        provider: RedisProvider | None = None,
        env_prefix: str = "REDIS_",
        prefix: str = "",
        permit_lease: float = 5.0,
    ) -> None:
        self._lease = check_lease(permit_lease)
        super().__init__(provider=provider, make=lambda: RedisProvider(env_prefix=env_prefix))
        self._prefix = f"{prefix}breaker:"
        self._heard: dict[str, Heard] = {}
        self._fleet = Fleet(self, lease=self._lease)

    async def __aenter__(self) -> Self:
        """Open a provider of its own, and look at what other replicas know."""
        await super().__aenter__()
        self._fleet.wake()
        return self

    async def closing(self) -> None:
        """End what runs in the background."""
        try:
            await self._fleet.close()
        finally:
            for name, heard in self._heard.items():
                self.provider.unlisten(self._prefix + name, heard)
            self._heard.clear()

    def circuit(self, *, name: str, config: CircuitBreakerConfig) -> Circuit:
        """The circuit of a name and settings."""
        return self._fleet.circuit(name, config)

    async def exchange(self, name: str, config: CircuitBreakerConfig, report: Report) -> Answer:
        """Merge a report into what the server knows, in one step."""
        command = -1 if report.command is None else STATES.index(report.command)
        said = [part for token, says in report.ended for part in (token, int(says))]
        args: list[Argument] = [_KEEP, round(self._lease * 1e6), *numbers_of(config)]
        args += [report.base, command, int(report.trip), int(report.fresh)]
        args += [STATES.index(report.state), round(report.remaining * 1e6)]
        args += [int(report.reset), report.errors, report.calls, report.failures, report.slow]
        args += [len(report.held), *report.held, len(report.ended), *said]
        args += [len(report.asks), *(ask.token for ask in report.asks)]
        answer = await self.provider.run(_EXCHANGE, keys=[self._prefix + name], args=args)
        return Answer(Record.of(*answer[:5]), tuple(map(bool, answer[5:])))

    async def look(self, names: Sequence[str]) -> Iterable[Record]:
        """What the server knows of circuits."""
        keys = [self._prefix + name for name in names]
        looks = (self.provider.run(_LOOK, keys=[key], repeatable=True) for key in keys)
        return [Record.of(*found) for found in await asyncio.gather(*looks)]

    def listen(self, names: Sequence[str]) -> bool:
        """Hear of the changes of circuits; whether that can be heard."""
        for name in names:
            if name not in self._heard:
                self._heard[name] = self._hearer(name)
        # The listener of a provider that was closed in between forgot them.
        heard = [self.provider.listen(self._prefix + n, h) for n, h in self._heard.items()]
        return all(heard)

    def _hearer(self, name: str) -> Heard:
        def heard(message: bytes | None) -> None:
            self._fleet.heard(name, None if message is None else Record.parsed(message))

        return heard
