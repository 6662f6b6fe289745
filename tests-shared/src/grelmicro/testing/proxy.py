"""A TCP proxy that makes a network misbehave on command."""

import array
import asyncio
import contextlib
import fcntl
import math
import socket
import struct
import termios
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from grelmicro.testing.servers._ports import LOCALHOST, free_port

_PORT_TRIES = 8
_READ = 65_536
_CHOP_SECONDS = 0.001  # between packets, so that a reader gets each by itself
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds


@dataclass(eq=False)
class _Link:
    """One client, its way to the server, and whether its answers are thrown away."""

    client: socket.socket
    upstream: socket.socket = field(default_factory=socket.socket)
    deaf: bool = False

    def __post_init__(self) -> None:
        for end in (self.client, self.upstream):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def reset(self) -> None:
        """Make the close that follows a reset, as from a crashed peer."""
        for end in (self.client, self.upstream):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def half_close(self) -> None:
        """Tell the client that no more answers come."""
        self.deaf = True
        with contextlib.suppress(OSError):
            self.client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.client.close()
        self.upstream.close()


class FaultProxy:
    """A proxy in front of one server, on the running event loop of this process.

    Faults are plain calls on the loop's thread. `delay`, `stall`, `chop` and `refuse` hold, for
    later connections too, until `heal`; `cut` and `half_close` hit the connections of the moment,
    `cut_after` one connection, once.
    Outside of its `async with` block it has no port, no task and no socket.

    Args:
        host: The server's name or IPv4 address.
        port: The server's port.
    """

    host = LOCALHOST

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._port = 0
        self._listener: socket.socket | None = None
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._flowing = asyncio.Event()
        self._delay = 0.0
        self._chop: int | None = None
        self._bytes_to_cut: int | None = None

    @property
    def port(self) -> int:
        """Where it listens. Raises RuntimeError outside of the `async with` block."""
        if not self._port:
            raise RuntimeError("the proxy has a port only inside its `async with` block")
        return self._port

    def url_for(self, url: str) -> str:
        """Return the URL of the server with this proxy's address, and all else as it was."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}{at}{self.host}:{self.port}").geturl()

    async def __aenter__(self) -> Self:
        self._flowing = asyncio.Event()
        for tries_left in reversed(range(_PORT_TRIES)):
            self._port = free_port()
            try:
                self.heal()
            except OSError:
                self._port = 0
                if not tries_left:
                    raise
            else:
                break
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        tasks = list(self._links)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._port = 0

    def delay(self, seconds: float) -> None:
        """Hold every answer for `seconds`, 0 or more; what comes meanwhile is glued to it."""
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds must be 0 or more and finite, not {seconds!r}")
        self._delay = seconds

    def stall(self) -> None:
        """Hold all answers until `heal`, the end of a connection too; requests go through.

        What was held comes in one packet, as far as one read of 64 KiB goes.
        """
        self._flowing.clear()

    def chop(self, size: int) -> None:
        """Send answers in packets of `size` bytes, 1 or more, a millisecond apart."""
        if size < 1:
            raise ValueError(f"size must be 1 or more, not {size!r}")
        self._chop = size

    def cut(self) -> None:
        """Reset all connections; answers on their way are lost. New ones are welcome."""
        for task, link in self._links.items():
            link.reset()
            task.cancel()

    def cut_after(self, size: int) -> None:
        """Let `size` more bytes of answers through, then reset the connection that got the last.

        Once, unless `heal` comes before. Bytes of all connections count, from now on, and all reach
        their client. `size` is 0 or more: with 0 the next answer is lost whole.
        """
        if size < 0:
            raise ValueError(f"size must be 0 or more, not {size!r}")
        self._bytes_to_cut = size

    def half_close(self) -> None:
        """End the answering half of all connections: clients see the end, requests go through."""
        for link in self._links.values():
            link.half_close()

    def refuse(self) -> None:
        """Refuse new connections, as a port does that nobody listens on."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def heal(self) -> None:
        """Be a good proxy again: held answers go out, new connections are welcome."""
        self._delay, self._chop, self._bytes_to_cut = 0.0, None, None
        if self._listener is None:
            self._listener = socket.create_server((self.host, self.port))
            self._listener.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)
        self._flowing.set()

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it left before we came
            return
        link = _Link(client)
        task = asyncio.get_running_loop().create_task(self._serve(link))
        self._links[task] = link
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._links.pop(task).close()

    async def _serve(self, link: _Link) -> None:
        try:
            await asyncio.get_running_loop().sock_connect(link.upstream, self._target)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump_requests(link))
                pumps.create_task(self._pump_answers(link))
        except* OSError:
            link.reset()

    async def _pump_requests(self, link: _Link) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(link.client, _READ):
            await loop.sock_sendall(link.upstream, data)
        link.upstream.shutdown(socket.SHUT_WR)

    async def _pump_answers(self, link: _Link) -> None:
        while data := await self._held_answer(link):
            if not link.deaf:
                await self._send(link.client, data)
        link.half_close()

    async def _held_answer(self, link: _Link) -> bytes:
        data = await asyncio.get_running_loop().sock_recv(link.upstream, _READ)
        if self._delay or not self._flowing.is_set():
            await asyncio.sleep(self._delay)
            await self._flowing.wait()
            with contextlib.suppress(BlockingIOError):
                data += link.upstream.recv(_READ)
        return data

    async def _send(self, client: socket.socket, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        size = self._chop or len(data)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            if (left := self._count(len(piece))) is not None:
                await loop.sock_sendall(client, piece[:left])
                await _delivered(client)
                raise ConnectionResetError
            await loop.sock_sendall(client, piece)
            if self._chop:
                await asyncio.sleep(_CHOP_SECONDS)

    def _count(self, size: int) -> int | None:
        """Count bytes to be sent; return how many may be, where the connection then ends."""
        if self._bytes_to_cut is None:
            return None
        left, self._bytes_to_cut = self._bytes_to_cut, self._bytes_to_cut - size
        if left > size:
            return None
        self._bytes_to_cut = None
        return left


async def _delivered(connection: socket.socket) -> None:
    """Wait until the other side's kernel has all that was sent: a reset drops what it has not."""
    unsent = array.array("i", [1])
    while unsent[0]:  # no event tells
        fcntl.ioctl(connection, termios.TIOCOUTQ, unsent)
        await asyncio.sleep(_CHOP_SECONDS if unsent[0] else 0)
