"""What the tests of processes share: programs that are started, watched, and gone at the end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

PATIENCE = 30.0

PRELUDE = """
import asyncio, os, signal, socket, sys, time
from grelmicro.service import asgi, context, fork, log, plugin

log.LogConfig(tty=False).setup()


def say(text):  # a line at once, whoever else writes
    os.write(2, f"{text}\\n".encode())


async def answer(reader, writer):
    await reader.readline()
    writer.write(b"%d\\n" % os.getpid())
    writer.close()


async def served(cancel: plugin.Cancel):
    servers = [await asyncio.start_server(answer, sock=each, backlog=500)
               for each in dict.fromkeys(context.find(socket.socket).values())]
    await cancel.wait()
    for each in servers:
        each.close()


async def serving(cancel: plugin.Cancel):
    yield served(cancel)


"""


class Program:
    """A process in a group of its own, and what it logs.

    Args:
        command: What the interpreter is given.
        folder: Where it runs.
        options: Of `Popen`.
    """

    def __init__(self, command: list[str], folder: Path, **options: Any) -> None:
        self.log = folder / f"{id(self)}.log"
        with self.log.open("wb") as stderr:
            arguments: list[str] = options.pop("prefix", [])
            self.process = subprocess.Popen(
                [*arguments, sys.executable, "-W", "error", *command],
                cwd=folder,
                stdout=stderr,
                stderr=stderr,
                process_group=0,
                **options,
            )

    def events(self, text: str = "") -> list[str]:
        """The lines of its log with a text; those that are no JSON as they are."""
        found = []
        for line in self.log.read_text().splitlines():
            with suppress(ValueError):
                line = json.loads(line)["event"]
            found.append(line)
        return [event for event in found if text in event]

    def until(self, text: str, count: int = 1) -> list[str]:
        """Wait until it has logged something so often."""
        self.wait_for(lambda: len(self.events(text)) >= count, f"{text!r} {count} times")
        return self.events(text)

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something holds; fail with its log otherwise."""
        deadline = monotonic() + PATIENCE
        while not condition():
            if monotonic() > deadline or (not self.is_left() and not condition()):
                pytest.fail(f"{what} was waited for in vain:\n{self.log.read_text()}")
            sleep(0.01)

    def started(self) -> list[int]:
        """The processes of all workers there have been, in order."""
        return [int(re.findall(r"pid (\d+)", event)[0]) for event in self.events("is started")]

    def running(self) -> list[int]:
        """Those that have not ended."""
        ends = self.events("exited with") + self.events("was ended by")
        over = {int(re.findall(r"pid (\d+)", event)[0]) for event in ends}
        return [pid for pid in self.started() if pid not in over]

    def ports(self) -> list[int]:
        """Where it listens."""
        return [int(event.rpartition(":")[2]) for event in self.events("listening on tcp")]

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def ended(self, number: signal.Signals | None = None) -> int:
        """Wait until it has ended, after a signal if there is one; its exit status."""
        if number is not None:
            self.send(number)
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it has not ended:\n{self.log.read_text()}")
        assert not self.is_left(), self.log.read_text()
        return status

    def is_left(self) -> bool:
        """Whether any process of its group is."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, 0)
            return True
        return False

    def end(self) -> None:
        """Leave no process, whatever has happened."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program: its source, after a prelude; or `command=`, for the interpreter."""
    programs: list[Program] = []

    def started(
        source: str = "",
        command: list[str] | None = None,
        env: Mapping[str, str] = {},
        **options: Any,
    ) -> Program:
        if command is None:
            file = tmp_path / f"program{len(programs)}.py"
            file.write_text(PRELUDE + source)
            command = [str(file)]
        options["env"] = {**os.environ, "PYTHONPATH": str(tmp_path), **env}
        programs.append(Program(command, tmp_path, **options))
        return programs[-1]

    yield started
    for program in programs:
        program.end()


@pytest.fixture
def ask() -> Callable[[Any], str]:
    """Connect to a port or a path, and ask; the answer."""

    def asked(place: int | Path | tuple[str, int]) -> str:
        if isinstance(place, Path):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(PATIENCE)
            client.connect(str(place))
        else:
            at = ("127.0.0.1", place) if isinstance(place, int) else place
            client = socket.create_connection(at, PATIENCE)
        with client:
            client.sendall(b"who?\n")
            return client.makefile().readline().strip()

    return asked
