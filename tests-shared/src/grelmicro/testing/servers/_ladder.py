"""One mechanism for every kind of server: the first rung that is there gives it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Server = TypeVar("Server")
REQUIRE = "GRELMICRO_REQUIRE"


class ServerUnavailableError(RuntimeError):
    """No rung is there; the message says what to install. Fixtures turn it into a skip.

    Args:
        service: The service's name, as `GRELMICRO_REQUIRE` spells it.
        hints: What would bring each rung, one line each.
    """

    def __init__(self, service: str, hints: Sequence[str]) -> None:
        lines = [f"no {service} server for the tests; any one of these brings it:"]
        lines += [f"  - {hint}" for hint in hints]
        lines += [f"({REQUIRE}={service} makes this a failure instead of a skip)"]
        super().__init__("\n".join(lines))
        self.service = service

    @property
    def required(self) -> bool:
        """Whether `GRELMICRO_REQUIRE`, a comma-separated list, names the service."""
        return self.service in map(str.strip, os.environ.get(REQUIRE, "").lower().split(","))


class ServerStartError(RuntimeError):
    """A rung is there and does not work, which is never skipped; shows the end of the log."""


@dataclass(frozen=True)
class Rung(Generic[Server]):
    """One way to a server.

    Args:
        hint: What a reader has to do to have this rung.
        climb: Returns a running server, or None where the rung is missing. Raises ServerStartError
            where it is there and broken. Private rungs are called with the caller's options.
        private: The server is a process of ours that a test may configure and kill.
    """

    hint: str
    climb: Callable[..., Server | None]
    private: bool = False


@dataclass(frozen=True)
class Ladder(Generic[Server]):
    """The rungs of one service, best first."""

    service: str
    rungs: Sequence[Rung[Server]]

    def climb(self, *, own: bool = False, **options: object) -> Server:
        """Return the server of the first rung that is there.

        Args:
            own: Only rungs whose server may be killed. Any option implies it.
            **options: Passed to the private rungs.

        Raises:
            ServerUnavailableError: No rung is there.
            ServerStartError: The first rung that is there does not work.
        """
        rungs = [rung for rung in self.rungs if rung.private or not (own or options)]
        for rung in rungs:
            if (server := rung.climb(**options)) is not None:
                return server
        raise ServerUnavailableError(self.service, [rung.hint for rung in rungs])
