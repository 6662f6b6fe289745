"""What groups of servers need besides one server: a question to each, and patience."""

import time
from collections.abc import Callable

from grelmicro.testing.servers._resp import RespConnection
from grelmicro.testing.servers._server import Server

_SECONDS = 45.0
_ANSWER_SECONDS = 1.0


def ask(server: Server, *words: str | bytes | int) -> object:
    """Send one command on a connection of its own and return the answer.

    Raises:
        OSError: It does not run, or did not answer in a second.
        RespError: It refused the command.
    """
    with RespConnection(server.url, timeout=_ANSWER_SECONDS) as connection:
        return connection.call(*(str(word) if isinstance(word, int) else word for word in words))


def ask_text(server: Server, *words: str | bytes | int) -> str:
    """Ask for an answer that is one text; raises as `ask`."""
    answer = ask(server, *words)
    assert isinstance(answer, bytes)
    return answer.decode()


def info(server: Server) -> dict[str, str]:
    """Return the fields of `INFO replication`; raises as `ask`."""
    lines = ask_text(server, "INFO", "replication").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Ask again and again until something is true.

    Raises:
        TimeoutError: It was not true for 45 seconds.
    """
    deadline = time.monotonic() + _SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not so in {_SECONDS:.0f} s")
        time.sleep(0.02)
