"""Opening, closing and reaching a server, in every way there is."""

import asyncio
import logging
import shutil
import ssl
import subprocess
import tempfile
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError

from grelmicro.cache import CacheError, TTLCache
from grelmicro.cache.redis import RedisCacheAdapter
from grelmicro.errors import OutOfContextError
from grelmicro.providers.redis import RedisConfig, RedisProvider
from grelmicro.testing.proxy import FaultProxy
from grelmicro.testing.servers import RedisServer, redis_server

Until = Callable[[Callable[[], object], str], Any]

SECRET = "s3cr3t/p@ss:w?rd#%[é "


def our_tasks() -> set["asyncio.Task[Any]"]:
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_a_command_needs_an_open_provider(redis_url: str) -> None:
    provider = RedisProvider(redis_url)
    with pytest.raises(OutOfContextError, match="not open"):
        await provider.execute("PING")
    async with provider:
        assert await provider.ping() > 0
    with pytest.raises(OutOfContextError, match="not open"):
        await provider.execute("PING")
    with pytest.raises(OutOfContextError, match="not open"):
        await provider.cache().get(key="k")


async def test_opening_does_no_io() -> None:
    async with RedisProvider("redis://192.0.2.1:1") as provider:
        assert provider.client is provider.client


async def test_a_provider_can_be_opened_again(redis_url: str) -> None:
    provider = RedisProvider(redis_url)
    for _ in range(3):
        async with provider:
            assert await provider.ping() > 0
    assert not our_tasks()


async def test_a_provider_that_was_entered_twice_closes_with_the_last(redis_url: str) -> None:
    provider = RedisProvider(redis_url)
    async with provider:
        async with provider:
            client = provider.client
        assert await provider.ping() > 0
        assert provider.client is client
    with pytest.raises(OutOfContextError):
        await provider.ping()


async def test_closing_leaves_no_connection(
    own_redis: RedisServer, own_other: Any, until: Until
) -> None:
    async with RedisProvider(own_redis.url) as provider:
        await asyncio.gather(*(provider.execute("PING") for _ in range(20)))
        assert len(own_other.client_list()) > 1
    await until(lambda: len(own_other.client_list()) == 1, "only the other client is there")


def test_one_provider_on_two_loops_one_after_the_other(redis_url: str, redis_prefix: str) -> None:
    provider = RedisProvider(redis_url)
    adapter = provider.cache(prefix=redis_prefix)

    async def remember(value: bytes) -> bytes | None:
        async with provider, adapter:
            before = await adapter.get(key="k")
            await adapter.set(key="k", value=value, ttl=60)
            return before

    assert asyncio.run(remember(b"first")) is None
    assert asyncio.run(remember(b"second")) == b"first"


async def test_closing_sees_commands_in_flight_to_their_end(
    fault_proxy: FaultProxy, redis_url: str, redis_prefix: str, other: Any
) -> None:
    async with fault_proxy as proxy:
        provider = RedisProvider(proxy.url_for(redis_url))
        async with provider:
            await provider.ping()
            proxy.delay(0.05)
            writes = [
                asyncio.create_task(provider.execute("INCR", redis_prefix + "n")) for _ in range(10)
            ]
            await asyncio.sleep(0)  # they have begun, and wait
        assert sorted(await asyncio.gather(*writes)) == list(range(1, 11))
        assert int(other.get(redis_prefix + "n")) == 10


async def test_closing_a_provider_whose_server_is_stalled_ends_and_leaves_no_task(
    fault_proxy: FaultProxy, redis_url: str
) -> None:
    async with fault_proxy as proxy:
        before = our_tasks()
        async with asyncio.timeout(10), RedisProvider(proxy.url_for(redis_url), timeout=0.2) as p:
            await p.ping()
            proxy.stall()
            commands = [asyncio.create_task(p.execute("PING")) for _ in range(5)]
            await asyncio.sleep(0)
            commands.pop().cancel()
        results = await asyncio.gather(*commands, return_exceptions=True)
        assert [type(result) for result in results] == [TimeoutError] * 4
        proxies = {task for task in our_tasks() - before if "FaultProxy" in repr(task)}
        assert our_tasks() - before - proxies == set()


# Clients of the caller's own.


@pytest.mark.parametrize("own", [True, False])
async def test_from_client_closes_only_what_it_owns(own: bool, redis_url: str) -> None:
    client = Redis.from_url(redis_url)
    async with RedisProvider.from_client(client, own=own) as provider:
        await provider.ping()
        (connection,) = client.connection_pool._available_connections
    assert connection.is_connected is not own
    await client.aclose()


async def test_a_client_of_the_callers_works_before_and_after(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as client:
        assert await client.ping()
        for _ in range(2):
            async with RedisProvider.from_client(client) as provider:
                assert await provider.ping() > 0
        assert await client.ping()


async def test_an_owned_client_can_be_opened_again(redis_url: str) -> None:
    provider = RedisProvider.from_client(Redis.from_url(redis_url), own=True)
    for _ in range(2):
        async with provider:
            assert await provider.ping() > 0


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [True, False])
async def test_a_client_of_any_protocol_and_decoding(
    protocol: int, decode: bool, redis_url: str, redis_prefix: str
) -> None:
    client = Redis.from_url(redis_url, protocol=protocol, decode_responses=decode)
    async with RedisProvider.from_client(client, own=True) as provider:
        cache = provider.cache(prefix=redis_prefix)
        await cache.set(key="k", value=b"\xff\x00", ttl=60)
        assert await cache.get(key="k") == b"\xff\x00"
        assert await cache.get_many(keys=["k", "absent"]) == {"k": b"\xff\x00"}
        entry = await cache.get_with_ttl(key="k")
        assert entry is not None
        assert entry[0] == b"\xff\x00"
        assert 50 < entry[1] <= 60
        assert await cache.touch(key="k", ttl=5) is True
        assert await cache.touch(key="absent", ttl=5) is False
        await cache.clear()
        assert await cache.get(key="k") is None


async def test_a_client_without_bounds_is_bounded(own_redis: RedisServer) -> None:
    client = Redis.from_url(own_redis.url, socket_timeout=None)
    async with RedisProvider.from_client(client, own=True, timeout=0.2) as provider:
        await provider.ping()
        own_redis.pause()
        try:
            async with asyncio.timeout(20):
                with pytest.raises(TimeoutError, match="did not answer"):
                    await provider.ping()
        finally:
            own_redis.resume()
        assert await provider.ping() > 0


# Sockets, passwords and TLS.


@pytest.fixture
def socket_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gm-") as folder:  # a socket's path has to be short
        yield Path(folder) / "r.sock"


async def test_a_unix_socket(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with redis_server(own=True, unix_socket=socket_path, password=SECRET) as server:
        monkeypatch.setenv("REDIS_URL", f"unix://{socket_path}")
        async with (
            RedisProvider(password=SECRET, db=1) as provider,
            RedisProvider(server.url) as tcp,
        ):
            await provider.execute("SET", "k", "v")
            assert await provider.execute("GET", "k") == b"v"
            assert await tcp.execute("GET", "k") is None
        assert "r.sock" in repr(provider)
        assert "s3cr3t" not in repr(provider)


async def test_a_password_with_special_characters() -> None:
    with redis_server(own=True, password=SECRET) as server:
        address: dict[str, Any] = {"host": server.host, "port": server.port}
        for provider in (
            RedisProvider(server.url),
            RedisProvider(**address, password=SECRET),
            RedisProvider(**address, username="default", password=SECRET),
            RedisProvider.from_config(RedisConfig(**address, password=SECRET)),
        ):
            async with provider:
                assert await provider.ping() > 0


@pytest.mark.parametrize("password", ["wr0ng-s3cr3t", None])
async def test_a_wrong_password_is_an_error_without_it(
    password: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with redis_server(own=True, password=SECRET) as server:
        async with RedisProvider(host=server.host, port=server.port, password=password) as provider:
            with pytest.raises(AuthenticationError) as raw:
                await provider.ping()
            cache = TTLCache(backend=provider.cache())
            with pytest.raises(CacheError, match="AuthenticationError") as wrapped:
                await cache.set("k", b"v")
    for caught in (raw, wrapped):
        assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))
    assert "s3cr3t" not in caplog.text


async def test_nobody_there_is_an_error_without_the_password() -> None:
    async with RedisProvider("redis://u:s3cr3t@127.0.0.1:1") as provider:
        with pytest.raises((RedisError, OSError)) as caught:
            await provider.ping()
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that signs itself, for 127.0.0.1, and its key."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("no openssl on PATH to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    command = f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    command += " -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


@asynccontextmanager
async def tls_in_front_of(
    server: RedisServer, cert: Path, key: Path, *, asks: bool = False
) -> AsyncGenerator[str]:
    """A port that speaks TLS to its clients and plain TCP to the server, which may not have it.

    It may ask for the same certificate that it shows.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    if asks:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cert)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection(server.host, server.port)
        await asyncio.gather(pump(reader, upstream), pump(upstream_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as listener:
        port = listener.sockets[0].getsockname()[1]
        yield f"rediss://127.0.0.1:{port}/0"


async def test_tls(redis_server: RedisServer, certificate: tuple[Path, Path]) -> None:
    authority = certificate[0]
    async with (
        tls_in_front_of(redis_server, *certificate) as url,
        RedisProvider(f"{url}?ssl_ca_certs={authority}") as provider,
    ):
        assert await provider.ping() > 0


async def test_a_certificate_of_the_client(
    redis_server: RedisServer, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    async with tls_in_front_of(redis_server, *certificate, asks=True) as url:
        ours = f"{url}?ssl_ca_certs={cert}&ssl_certfile={cert}&ssl_keyfile={key}"
        async with RedisProvider(ours) as provider:
            assert await provider.ping() > 0
        async with RedisProvider(f"{url}?ssl_ca_certs={cert}", timeout=2) as provider:
            with pytest.raises((RedisError, OSError)):
                await provider.ping()


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    redis_server: RedisServer, certificate: tuple[Path, Path]
) -> None:
    async with (
        tls_in_front_of(redis_server, *certificate) as url,
        RedisProvider(url) as provider,
    ):
        with pytest.raises((RedisError, OSError), match="CERTIFICATE_VERIFY_FAILED"):
            await provider.ping()


async def test_an_adapter_with_a_provider_of_its_own(
    redis_url: str, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    adapter = RedisCacheAdapter(prefix=redis_prefix)
    with pytest.raises(OutOfContextError):
        await adapter.get(key="k")
    for _ in range(2):
        async with adapter:
            assert adapter._loop is asyncio.get_running_loop()
            await adapter.set(key="k", value=b"v", ttl=60)
            async with adapter:
                assert await adapter.get(key="k") == b"v"
            assert await adapter.get(key="k") == b"v"
        assert adapter._loop is None
        with pytest.raises(OutOfContextError):
            await adapter.get(key="k")
