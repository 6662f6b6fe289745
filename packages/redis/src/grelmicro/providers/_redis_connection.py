"""One socket to one server: commands leave together, some in a write, replies come in order."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,  # noqa: A004  # redis's own name
    MasterDownError,
    MovedError,
    ResponseError,
    TryAgainError,
)

__all__ = ["Connection", "NotSentError", "OutcomeUnknownError"]

_NOTHING: Final = object()

_PUSH: Final = hiredis.PushNotification

_PLAIN: Final = frozenset({bytes, int, type(None)})
"""Most replies are one of these, and a look at their type is the cheapest one."""

_IN_FLIGHT = 16_384
"""Commands that wait for replies on one connection at most; more wait for a place."""

_BIG = 256 * 1024
"""Bytes of one reply, or of what is not yet written, from which it is a matter of bandwidth."""

_ENOUGH = 32
"""Commands that are written at once: the server works on them while more are made."""

_RESOLUTION = 0.01
"""Seconds between two looks at deadlines, at least."""


_OF_CLUSTERS: Final[dict[str, type[ResponseError]]] = {
    "ASK": AskError,
    "CLUSTERDOWN": ClusterDownError,
    "MASTERDOWN": MasterDownError,
    "MOVED": MovedError,
    "TRYAGAIN": TryAgainError,
}


def _error_of(text: str) -> Exception:
    """The error that a server's answer means; redis-py 5 knows those of clusters elsewhere."""
    code, _, rest = text.partition(" ")
    try:
        if code in _OF_CLUSTERS:
            return _OF_CLUSTERS[code](rest)
    except ValueError:  # a redirection to nowhere
        return ResponseError(text)
    return cast("Exception", DefaultParser.parse_error(text))  # type: ignore[no-untyped-call]  # redis-py's own


class NotSentError(ConnectionError):
    """The connection was lost before the command was written: it was not done."""


class OutcomeUnknownError(ConnectionError):
    """The connection was lost between a command and its reply: it may have been done, or not."""


class Connection(asyncio.Protocol):
    """A connection that any number of callers share.

    Every command has its place in one queue until its reply has come, whether its caller still
    waits or not. So a reply never goes to another's caller.

    Args:
        timeout: Seconds that a command waits for its reply. After so much silence, when a reply is
            due, nothing new is sent here.
        changed: Called when `ready` or `usable` has changed.

    Attributes:
        ready: Whether a command may be sent now. False also while the transport's buffer is full,
            a big reply comes in, or too many commands are in flight.
        usable: Whether it is, or will be, ready again.
        deadline: When the command that was sent last will have failed, on the loop's clock.
    """

    def __init__(self, *, timeout: float, changed: Callable[["Connection"], None]) -> None:
        self.ready = False
        self.usable = True
        self.deadline = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._changed = changed
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(notEnoughData=_NOTHING, replyError=cast("Any", _error_of))
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unwritten: list[bytes] = []
        self._unwritten_size = 0
        self._incoming = 0
        self._full = False
        self._greeted = False
        self._lost = False
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def send(self, command: bytes) -> asyncio.Future[Any]:
        """Write a packed command by the end of this loop iteration; a future of its reply.

        The future fails with the server's error, TimeoutError at `deadline`, NotSentError or
        OutcomeUnknownError. Cancelling it drops the reply when it comes.
        """
        future: asyncio.Future[Any] = asyncio.Future(loop=self._loop)
        if self._lost:
            future.set_exception(NotSentError("the connection is closed"))
            return future
        waiting, unwritten = self._waiting, self._unwritten
        if not unwritten:
            self._loop.call_soon(self._flush)
            self.deadline = self._loop.time() + self._timeout
        waiting.append((future, self.deadline))
        unwritten.append(command)
        self._unwritten_size += len(command)
        if len(unwritten) >= _ENOUGH or self._unwritten_size > _BIG:
            self._flush()
        if len(waiting) >= _IN_FLIGHT:
            self._set_ready(False)
        if self._timer is None:
            self._timer = self._loop.call_at(self.deadline, self._expire)
        return future

    def _set_ready(self, ready: bool) -> None:
        if self.ready is not ready:
            self.ready = ready
            self._changed(self)

    def _flush(self) -> None:
        # On a closing transport a write would vanish; kept here, it is known to be unsent.
        if self._unwritten and self._transport and not self._transport.is_closing():
            data = b"".join(self._unwritten)
            self._unwritten.clear()
            self._unwritten_size = 0
            self._transport.write(data)

    def open_up(self) -> None:
        """Let callers in, after the handshake."""
        self._greeted = True
        self._refresh()

    def retire(self) -> None:
        """Take no more commands; end when those in flight have their replies, or time out."""
        if self.usable:
            self.usable = self.ready = False
            self._changed(self)
        if not self._waiting or self._timer is None:  # nothing is due, or all of it is late
            self.lose("it was given up")

    def lose(self, reason: str) -> None:
        """End the connection now, and fail what is in flight, each once."""
        if self._lost:
            return
        self._lost = True
        self.usable = self.ready = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        elif not self.ended.done():
            self.ended.set_result(None)
        self._fail_all(reason)
        self._changed(self)

    def _fail_all(self, reason: str) -> None:
        sent = len(self._waiting) - len(self._unwritten)
        for position, (future, _) in enumerate(self._waiting):
            if future.done():
                continue
            if position < sent:
                unknown = f"the connection was lost ({reason}) before the reply came"
                future.set_exception(OutcomeUnknownError(f"{unknown}: it may have been done"))
            else:
                future.set_exception(
                    NotSentError(f"the connection was lost ({reason}) before the command was sent")
                )
        self._waiting.clear()
        self._unwritten.clear()

    def _expire(self) -> None:
        """Fail those whose time is over; their replies are dropped when they come."""
        now = self._loop.time()
        self._timer = None
        late = False
        for future, deadline in self._waiting:
            if deadline > now:
                at = max(deadline, now + _RESOLUTION)
                self._timer = self._loop.call_at(at, self._expire)
                break
            late = True
            if not future.done():
                future.set_exception(TimeoutError())
        silent = self._heard <= now - self._timeout
        if (late and silent) or not self.usable:
            self.retire()

    def _refresh(self) -> None:
        """See whether there is room again; half of all places, so that it lasts."""
        if (
            self.usable
            and self._greeted
            and not self._full
            and self._incoming < _BIG
            and len(self._waiting) <= _IN_FLIGHT // 2
        ):
            self._set_ready(True)

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have a transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=4 * _BIG)
        if self._lost:
            self._transport.abort()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Give each reply to the caller it belongs to."""
        self._heard = self._loop.time()
        try:
            self._reader.feed(data)
            delivered = self._deliver()
        except (hiredis.ProtocolError, IndexError, TypeError):
            self.lose("the server sent what is no reply to a command")
            return
        self._incoming = 0 if delivered else self._incoming + len(data)
        if self._incoming >= _BIG:
            self._set_ready(False)
        elif not self.ready:
            self._refresh()
            if not (self.usable or self._waiting):
                self.lose("it was given up")

    def _deliver(self) -> bool:
        """Take all whole replies out of the reader; whether there were any."""
        gets, waiting = self._reader.gets, self._waiting
        reply = first = gets()
        while reply is not _NOTHING:
            if type(reply) is not _PUSH:
                future, _ = waiting.popleft()
                if not future.done():
                    if type(reply) in _PLAIN or not isinstance(reply, Exception):
                        future.set_result(reply)
                    else:
                        future.set_exception(reply)
            reply = gets()
        return first is not _NOTHING

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._full = True
        self._set_ready(False)

    def resume_writing(self) -> None:
        """There is room in the transport's buffer."""
        self._full = False
        self._refresh()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.lose(str(exc) if exc else "the server closed it")
        if not self.ended.done():
            self.ended.set_result(None)
