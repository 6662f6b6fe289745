"""Redis inside an app, behind `cached`, and on the command line."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import RedisDsn, SecretStr
from redis.asyncio import Redis

from grelmicro import Grelmicro
from grelmicro.__main__ import main
from grelmicro.cache import Cache, CacheError, JsonSerializer, TTLCache, cached
from grelmicro.cache.redis import RedisCacheAdapter, RedisCacheBackend
from grelmicro.errors import BackendNotOpenError
from grelmicro.providers.redis import RedisProvider
from grelmicro.testing.servers import RedisServer

Until = Callable[[Callable[[], object], str], Any]


async def test_a_provider_alone_is_a_whole_wiring(own_redis: RedisServer, own_other: Any) -> None:
    micro = Grelmicro(uses=[RedisProvider(own_redis.url)])
    cache = TTLCache(serializer=JsonSerializer())
    async with micro:
        await cache.set("k", {"a": 1})
        assert await cache.get("k") == {"a": 1}
        assert own_other.keys() == [b"cache:k"]
        assert isinstance(micro.cache.backend, RedisCacheAdapter)


@pytest.mark.parametrize("form", ["provider", "adapter", "older backend", "DSN", "client"])
async def test_every_item_that_an_app_takes(form: str, redis_url: str, redis_prefix: str) -> None:
    client = Redis.from_url(redis_url)
    provider = RedisProvider(redis_url)
    uses: dict[str, list[Any]] = {
        "provider": [provider, Cache(provider)],
        "adapter": [provider, provider.cache(prefix=redis_prefix)],
        "older backend": [RedisCacheBackend(redis_url, prefix=redis_prefix)],
        "DSN": [Cache(RedisCacheBackend(RedisDsn(redis_url), prefix=redis_prefix))],
        "client": [borrowed := RedisProvider.from_client(client), Cache(borrowed)],
    }
    async with Grelmicro(uses=uses[form]):
        cache = TTLCache(name=redis_prefix)
        await cache.set("k", b"v")
        assert await cache.get("k") == b"v"
        await cache.clear()
        assert await cache.get("k") is None
    await client.aclose()


async def test_the_older_backend_by_itself(
    redis_url: str, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    async with RedisCacheBackend(prefix=redis_prefix) as backend:
        await backend.set(key="k", value=b"v", ttl=60)
    async with RedisCacheBackend(redis_url, prefix=redis_prefix) as backend:
        assert await backend.get(key="k") == b"v"


async def test_adapters_of_equal_settings_share_one_provider(
    own_redis: RedisServer, own_other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", own_redis.url)
    one, two = RedisCacheAdapter(prefix="one:"), RedisCacheAdapter(prefix="two:")
    for _ in range(2):
        async with Grelmicro(uses=[Cache(one, name="one"), Cache(two, name="two")]):
            assert one.provider is two.provider
            await one.set(key="k", value=b"1", ttl=60)
            await two.set(key="k", value=b"2", ttl=60)
            assert sorted(own_other.keys()) == [b"one:cache:k", b"two:cache:k"]
            assert len(own_other.client_list()) == 2  # theirs, and the other client's
    async with two:  # and it still has one of its own
        assert await two.get(key="k") == b"2"


@pytest.mark.parametrize("as_url", [str, RedisDsn, SecretStr])
async def test_adapters_of_different_urls_do_not_share(
    as_url: Callable[[str], Any], redis_url: str, redis_prefix: str
) -> None:
    base = redis_url.rsplit("/", 1)[0]
    one, two = (RedisCacheBackend(as_url(f"{base}/{db}"), prefix=redis_prefix) for db in ("0", "1"))
    async with Grelmicro(uses=[Cache(one, name="one"), Cache(two, name="two")]):
        assert one.provider is not two.provider
        await one.set(key="k", value=b"1", ttl=60)
        assert await two.get(key="k") is None
        await one.clear()


async def test_an_unreachable_server_does_not_keep_an_app_from_starting() -> None:
    async with Grelmicro(uses=[RedisProvider("redis://127.0.0.1:1")]):
        with pytest.raises(CacheError, match="failed"):
            await TTLCache().set("k", b"v")


# Synchronous functions, in threads.


@pytest.fixture
async def cache(provider: RedisProvider, redis_prefix: str) -> AsyncGenerator[TTLCache[Any]]:
    async with provider.cache(prefix=redis_prefix) as adapter:
        yield TTLCache(backend=adapter, serializer=JsonSerializer())


async def in_threads(function: Callable[[], Any], times: int) -> list[Any]:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(times) as pool:
        return await asyncio.gather(*(loop.run_in_executor(pool, function) for _ in range(times)))


async def test_a_sync_function_is_cached_from_threads(cache: TTLCache[Any], other: Any) -> None:
    runs = 0

    @cached(cache, key="k:{number}")
    def double(number: int) -> int:
        nonlocal runs
        runs += 1
        return number * 2

    helpers: Any = double
    assert await asyncio.to_thread(double, 4) == 8
    assert await asyncio.to_thread(double, 4) == 8
    assert runs == 1
    await helpers.cache_clear()
    assert await asyncio.to_thread(double, 4) == 8
    assert runs == 2


async def test_a_miss_in_many_threads_runs_once(cache: TTLCache[Any]) -> None:
    runs, go = 0, threading.Barrier(16)

    @cached(cache, lock=True)
    def load() -> int:
        nonlocal runs
        runs += 1
        return runs

    def call() -> int:
        go.wait()
        return load()

    assert await in_threads(call, 16) == [1] * 16
    assert runs == 1


async def test_on_the_thread_of_the_loop_it_is_an_error_and_no_deadlock(
    cache: TTLCache[Any],
) -> None:
    @cached(cache)
    def load() -> int:
        return 1

    with pytest.raises(RuntimeError, match="async"):
        load()
    assert await asyncio.to_thread(load) == 1


async def test_a_closed_backend_is_an_error_that_says_so(redis_url: str) -> None:
    backend = RedisCacheBackend(redis_url)
    cache = TTLCache(backend=backend, serializer=JsonSerializer())

    @cached(cache)
    def load() -> int:
        return 1

    with pytest.raises(BackendNotOpenError, match="not open"):
        await asyncio.to_thread(load)
    async with backend:
        pass
    with pytest.raises(BackendNotOpenError, match="not open"):
        await asyncio.to_thread(load)


async def test_threads_go_on_when_the_server_is_gone(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with RedisProvider(own_redis.url, timeout=0.5) as provider, provider.cache() as adapter:

        @cached(TTLCache(backend=adapter, serializer=JsonSerializer()))
        def load() -> int:
            return 1

        assert await asyncio.to_thread(load) == 1
        own_redis.kill()
        assert await in_threads(load, 8) == [1] * 8
        assert [record.message.count("fails to read") for record in caplog.records] == [1]
        await asyncio.to_thread(own_redis.restart)
        assert await asyncio.to_thread(load) == 1
        assert "can read again" in caplog.records[-1].message


# The command line.


def test_check_of_a_server_that_answers(redis_url: str) -> None:
    command = [sys.executable, "-m", "grelmicro", "check", redis_url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert redis_url in done.stdout
    assert " ms" in done.stdout


def test_check_of_what_the_environment_names(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRELMICRO_URL", redis_url)
    assert main(["check"]) == 0
    assert redis_url in capsys.readouterr().out


def test_check_of_a_server_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "redis://u:s3cr3t@127.0.0.1:1/0"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("failed: ConnectionError")
    assert shown.err.count("\n") == 1
    assert "s3cr3t" not in shown.err


@pytest.mark.parametrize("url", ["redis://u:s3cr3t@x/name", "redis://u:s3cr3t@x:port"])
def test_check_of_a_url_that_cannot_be_used(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRELMICRO_URL", url)
    assert main(["check"]) == main(["check", url]) == 1
    shown = capsys.readouterr().err
    assert shown.count("RedisProviderConfigError: url: ") == 2
    assert shown.count("GRELMICRO_URL") == 1
    assert "s3cr3t" not in shown


def test_providers_lists_redis(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["providers"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["redis", "cache,", "sync,", "ratelimiter,", "circuitbreaker"] in lines
