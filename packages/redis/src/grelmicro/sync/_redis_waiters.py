"""Who waits in this process for leases that are given back anywhere."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from grelmicro.providers.redis import RedisProvider

__all__ = ["Waiters"]

_LINGER = 5.0
"""Seconds for which a channel is listened to though nobody waits: waiters come one after the other,
and to subscribe anew for each would take longer than its wait."""


class _Channel:
    """One channel, and who waits for a message on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.waiting: set[asyncio.Future[None]] = set()
        self.left_at = 0.0
        self.timer: asyncio.TimerHandle | None = None

    def heard(self, _: bytes | None) -> None:
        """A lease was given back, or may have been."""
        for freed in self.waiting:
            if not freed.done():
                freed.set_result(None)


class Waiters:
    """Wakes those who wait for a message on a channel."""

    def __init__(self) -> None:
        self._channels: dict[str, _Channel] = {}

    def __len__(self) -> int:
        return sum(len(channel.waiting) for channel in self._channels.values())

    @contextmanager
    def waiting(self, provider: RedisProvider, name: str) -> Generator["asyncio.Future[None]"]:
        """A future that is done when there may have been a message."""
        loop = asyncio.get_running_loop()
        channel = self._channels.get(name)
        if channel is None or channel.loop is not loop:
            channel = self._channels[name] = _Channel(loop)
        provider.listen(name, channel.heard)
        freed: asyncio.Future[None] = loop.create_future()
        channel.waiting.add(freed)
        try:
            yield freed
        finally:
            channel.waiting.discard(freed)
            channel.left_at = loop.time()
            if channel.timer is None:
                self._look_later(provider, name, channel, _LINGER)

    def _look_later(
        self, provider: RedisProvider, name: str, channel: _Channel, seconds: float
    ) -> None:
        channel.timer = channel.loop.call_later(seconds, self._look, provider, name, channel)

    def _look(self, provider: RedisProvider, name: str, channel: _Channel) -> None:
        """Listen to a channel no more if nobody has waited for a while."""
        channel.timer = None
        idle = channel.loop.time() - channel.left_at
        if channel.waiting:
            return
        if idle < _LINGER:
            self._look_later(provider, name, channel, _LINGER - idle)
            return
        provider.unlisten(name, channel.heard)
        if self._channels.get(name) is channel:
            del self._channels[name]
