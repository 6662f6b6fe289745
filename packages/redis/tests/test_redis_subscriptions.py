"""What becomes of subscriptions when connections are lost."""

import asyncio
import gc
import sys

import pytest

from grelmicro.providers.redis import RedisProvider
from grelmicro.testing.proxy import FaultProxy


async def test_a_connection_that_is_lost_while_others_subscribe_is_made_once(
    fault_proxy: FaultProxy, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who read and who subscribed both connected again: one was lost, or nothing was heard."""
    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda seen: lost.append(seen.exc_value))
    heard: asyncio.Queue[bytes | None] = asyncio.Queue()
    async with fault_proxy as proxy, RedisProvider(proxy.url_for(redis_url)) as redis:
        assert redis.listen("first", heard.put_nowait)
        await heard.get()  # it listens
        for turn in range(30):
            proxy.cut()
            assert redis.listen(f"channel {turn}", heard.put_nowait)
            for _ in range(turn % 10):
                await asyncio.sleep(0)
            async with asyncio.timeout(20):
                await heard.get()
    gc.collect()
    assert lost == []
