"""Signals as something to read, for a process that waits without an event loop."""

import os
import signal
import socket
from types import FrameType
from typing import Any, Self

__all__ = ["Wakeups"]


class Wakeups:
    """Lets a selector wait for signals; to be used in the main thread.

    The interpreter writes the number of each signal into a socket. Handlers do nothing: whatever
    they did could wait for a lock that the interrupted code holds.
    """

    def __enter__(self) -> Self:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        number = self._writer.fileno()
        self._number_before = signal.set_wakeup_fd(number, warn_on_full_buffer=False)
        self._before: dict[signal.Signals, Any] = {
            number: signal.signal(number, _do_nothing) for number in _DEFAULTS
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)
        signal.set_wakeup_fd(self._number_before)
        self._close()

    def fileno(self) -> int:
        """What a selector waits for."""
        return self._reader.fileno()

    def read(self) -> list[signal.Signals]:
        """The signals since the last time, in order."""
        try:
            return [signal.Signals(number) for number in self._reader.recv(4096)]
        except BlockingIOError:
            return []

    def fork(self) -> int:
        """Fork; the child reads nothing any more.

        No signal is delivered meanwhile: one of the child's would be taken for its parent's.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _DEFAULTS)
        try:
            pid = os.fork()
            if not pid:
                self._leave()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid

    def _leave(self) -> None:
        signal.set_wakeup_fd(-1)
        for number, default in _DEFAULTS.items():
            signal.signal(number, default)
        self._close()

    def _close(self) -> None:
        self._reader.close()
        self._writer.close()


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    return


_DEFAULTS: dict[signal.Signals, Any] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.SIG_DFL,
    signal.SIGCHLD: signal.SIG_DFL,
    # A terminal or a supervisor sends these to a whole group, where the parent decides what they
    # mean, or the parent forwards them: they must not end a child that does not care. They are not
    # ignored either, as that would be inherited by every program that the child starts.
    signal.SIGHUP: _do_nothing,
    signal.SIGUSR1: _do_nothing,
    signal.SIGUSR2: _do_nothing,
}
"""What is read, and what a child does until it handles it."""
