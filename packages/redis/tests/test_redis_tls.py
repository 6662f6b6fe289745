"""TLS on a bad day, on both event loops: what asyncio and uvloop each do in their own way."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError

from grelmicro.providers.redis import OutcomeUnknownError, RedisProvider
from grelmicro.testing.servers import RedisServer

Loop = Callable[[], asyncio.AbstractEventLoop]
Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run something on a loop of its own, where nothing may be left behind."""

    async def bounded(what: Callable[[], Awaitable[None]]) -> None:
        async with asyncio.timeout(40):
            await what()
            if left := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(left)  # the front's own ones end, as nobody is connected

    def run(what: Callable[[], Awaitable[None]]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded(what))

    return run


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that signs itself, for 127.0.0.1, and its key."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("no openssl on PATH to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    command = f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=nobody"
    command += " -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


class Front:
    """Speaks TLS to its clients, and plain TCP to the server.

    Args:
        server: The server.
        identity: Certificate and key.
    """

    def __init__(self, server: RedisServer, identity: tuple[Path, Path]) -> None:
        self.server, self.identity = server, identity
        self.url = ""
        self.let_through: int | None = None
        self.flowing = asyncio.Event()
        self.flowing.set()

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator["Front"]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.identity)
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context) as it:
            port = it.sockets[0].getsockname()[1]
            self.url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={self.identity[0]}"
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(
            self.server.host, self.server.port
        )
        answers = asyncio.create_task(self._answers(server_reader, writer))
        try:
            while data := await reader.read(65_536):
                server_writer.write(data)
                await server_writer.drain()
        except OSError:
            pass
        finally:
            server_writer.close()
            answers.cancel()
            await asyncio.wait([answers])
            writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self.flowing.wait()
            if self.let_through is not None:
                writer.write(data[: self.let_through])
                self.let_through = None
                break
            writer.write(data)
            await writer.drain()
        writer.close()


async def failures(tasks: list["asyncio.Task[Any]"]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_many_and_big_ones(
    run: Run, redis_server: RedisServer, identity: tuple[Path, Path], redis_prefix: str
) -> None:
    async def use() -> None:
        key, big = redis_prefix + "k", bytes(range(256)) * 40_000
        async with (
            Front(redis_server, identity).listening() as front,
            RedisProvider(front.url, timeout=30) as provider,
        ):
            numbers = await asyncio.gather(*(provider.execute("INCR", key) for _ in range(2_000)))
            assert sorted(numbers) == [*range(1, 2_001)]
            await asyncio.gather(*(provider.execute("SET", f"{key}{n}", big) for n in range(3)))
            got = await asyncio.gather(*(provider.execute("GET", f"{key}{n}") for n in range(3)))
            assert got == [big] * 3
            await provider.execute("DEL", *(f"{key}{n}" for n in range(3)))

    run(use)


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_reply_that_is_cut(
    size: int,
    run: Run,
    redis_server: RedisServer,
    identity: tuple[Path, Path],
    redis_prefix: str,
) -> None:
    async def use() -> None:
        async with (
            Front(redis_server, identity).listening() as front,
            RedisProvider(front.url) as provider,
        ):
            await provider.ping()
            front.let_through = size
            with pytest.raises(OutcomeUnknownError):
                await provider.execute("INCR", redis_prefix)
            assert await provider.execute("INCR", redis_prefix) == 2
            front.let_through = size
            assert await provider.execute("GET", redis_prefix, repeatable=True) == b"2"

    run(use)


def test_closing_while_nothing_comes_back(
    run: Run, redis_server: RedisServer, identity: tuple[Path, Path]
) -> None:
    async def use() -> None:
        async with Front(redis_server, identity).listening() as front:
            async with RedisProvider(front.url, timeout=0.4) as provider:
                await provider.ping()
                front.flowing.clear()
                tasks = [asyncio.create_task(provider.ping()) for _ in range(20)]
                await asyncio.sleep(0.01)
                tasks.pop().cancel()
            assert {type(each) for each in await failures(tasks)} == {TimeoutError}
            front.flowing.set()

    run(use)


@pytest.mark.parametrize("leave", ["close", "cancel", "wait"])
def test_a_handshake_that_never_ends(leave: str, run: Run, identity: tuple[Path, Path]) -> None:
    async def use() -> None:
        over = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await over.wait()
            writer.close()

        async with await asyncio.start_server(silent, "127.0.0.1", 0) as listener:
            port = listener.sockets[0].getsockname()[1]
            url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={identity[0]}"
            async with RedisProvider(url, timeout=0.4) as provider:
                tasks = [asyncio.create_task(provider.ping()) for _ in range(5)]
                await asyncio.sleep(0.05)
                if leave == "cancel":
                    for task in tasks:
                        task.cancel()
                elif leave == "wait":
                    await failures(tasks)
            kinds = (TimeoutError, RedisConnectionError, asyncio.CancelledError)
            assert all(isinstance(each, kinds) for each in await failures(tasks))
            over.set()

    run(use)


def test_a_full_buffer(run: Run, own_redis: RedisServer, identity: tuple[Path, Path]) -> None:
    async def use() -> None:
        async with (
            Front(own_redis, identity).listening() as front,
            RedisProvider(front.url, timeout=30, connections=1) as provider,
        ):
            await provider.ping()
            own_redis.pause()
            value = b"v" * 1_000_000
            tasks = [asyncio.create_task(provider.execute("SET", "k", value)) for _ in range(60)]
            await asyncio.sleep(0.3)
            connection: Any = provider._door
            (connection,) = connection._route._link._connections
            held = connection._transport.get_write_buffer_size()
            own_redis.resume()
            assert held < 8_000_000
            assert await asyncio.gather(*tasks) == [b"OK"] * 60

    run(use)


def test_a_certificate_for_another_name(
    run: Run, redis_server: RedisServer, identity: tuple[Path, Path]
) -> None:
    async def use() -> None:
        async with Front(redis_server, identity).listening() as front:
            elsewhere = front.url.replace("127.0.0.1", "127.0.0.1.nip.invalid")
            async with RedisProvider(elsewhere, timeout=2) as provider:
                with pytest.raises(RedisConnectionError):
                    await provider.ping()
            named = front.url.replace("127.0.0.1", "localhost")
            async with RedisProvider(named, timeout=5) as provider:
                with pytest.raises(RedisConnectionError, match="certificate verify failed"):
                    await provider.ping()

    run(use)


def test_a_certificate_that_is_not_to_be_looked_at(
    run: Run, redis_server: RedisServer, identity: tuple[Path, Path]
) -> None:
    async def use() -> None:
        async with Front(redis_server, identity).listening() as front:
            anybody = front.url.partition("?")[0].replace("127.0.0.1", "localhost")
            async with RedisProvider(f"{anybody}?ssl_cert_reqs=none", timeout=5) as provider:
                assert await provider.ping() > 0

    run(use)
