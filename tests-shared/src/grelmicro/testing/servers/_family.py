"""A server that consists of several processes."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from grelmicro.testing.servers._process import ServerProcess

_SECONDS = 5.0
_FROZEN, _GONE = "tTZ", "Z"  # a dead process keeps its id until its parent looks


class ServerFamily(ServerProcess):
    """A server with a process for each connection, all of them of one program.

    A fault hits all of them: else a frozen server would go on to answer on open connections, and a
    killed one would for a moment.
    """

    def _signal(self, number: int) -> None:
        if (pid := self.pid) is None:
            return
        if number in (signal.SIGKILL, signal.SIGSTOP):
            super()._signal(signal.SIGSTOP)  # from now on it makes no more children
            _wait([pid], _FROZEN)
            children = _children(pid)
            _send(children, number)
            _wait(children, _GONE if number == signal.SIGKILL else _FROZEN)
        elif number == signal.SIGCONT:
            _send(_children(pid), number)
        # A plain SIGTERM makes it wait for its clients to leave.
        super()._signal(signal.SIGINT if number == signal.SIGTERM else number)


def _children(pid: int) -> list[int]:
    """The children that run the same program, which our watcher does not."""
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # no Linux
        command = ["pgrep", "-P", str(pid)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # fixed words
        words = done.stdout.split()
    return [int(word) for word in words if _program(int(word)) == _program(pid)]


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        command = ["ps", "-o", "ucomm=", "-p", str(pid)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # fixed words
        return done.stdout


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # gone, or no Linux, where a signal works fast enough
        return _GONE


def _send(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _wait(pids: Sequence[int], states: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not all(_state(pid) in states for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.001)
