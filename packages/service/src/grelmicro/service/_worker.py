"""What a forked worker does: it runs a stage, and tells its parent how that is going."""

import asyncio
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from grelmicro.service._references import Reference
from grelmicro.service._stage import Stage

__all__ = ["FORCE", "LEAVING", "READY", "Channel", "WorkerStage", "provide"]

READY, LEAVING, FORCE = b"r", b"l", b"f"
"""From the worker: it is ready; it leaves, as a signal has told it to. To it: do not wait."""
_log = logging.getLogger("grelmicro.service")


class Channel:
    """One end of what a parent and its worker tell each other; either hears when the other ends."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.setblocking(False)
        self.closed = False
        """Whether the other one has ended."""

    def fileno(self) -> int:
        """What a selector waits for."""
        return self._end.fileno()

    def tell(self, word: bytes) -> None:
        """Say something, if the other one is still there."""
        try:
            self._end.send(word)
        except OSError:
            return

    def heard(self) -> bytes:
        """What was said, a byte each."""
        try:
            said = self._end.recv(4096)
        except BlockingIOError:
            return b""
        except OSError:
            said = b""
        self.closed = not said
        return said

    def close(self) -> None:
        """Close this end."""
        self._end.close()


class WorkerStage(Stage):
    """The stage of a worker.

    Signals stop it once, however many come: a supervisor may send to all what the parent forwards.
    Only the parent cuts its end short.

    Args:
        channel: Where its parent is.
        named: The sockets that it shares with others.
        options: Of a stage.
    """

    def __init__(
        self, channel: Channel, named: Mapping[str, socket.socket], **options: Any
    ) -> None:
        super().__init__(observer=_Reporter(channel), **options)
        self._channel = channel
        provide(self, named)

    async def run(self, references: Sequence[Reference] = ()) -> list[Any]:
        """Run, and listen to the parent."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), self._listen)
        try:
            return await super().run(references)
        finally:
            loop.remove_reader(self._channel.fileno())

    def stop(self) -> None:
        """Stop, and have the parent start another one in time."""
        if not asyncio.Event.is_set(self.cancel):
            self._channel.tell(LEAVING)
            super().stop()

    def _listen(self) -> None:
        if FORCE in self._channel.heard():
            self.stop()
            super().stop()
        elif self._channel.closed:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            _log.error("the parent is gone: this worker stops as well")
            self.stop()


class _Reporter:
    """Tells the parent when the stage is ready."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def ready(self) -> None:
        self._channel.tell(READY)

    def stopping(self) -> None:
        return


def provide(stage: Stage, named: Mapping[str, socket.socket]) -> None:
    """Make sockets components, by the references they were asked for with."""
    for name, each in named.items():
        stage.context.add(each, name=name)
