"""What a provider sends commands through, and the state of having nothing to send through."""

import asyncio
from collections.abc import Sequence
from threading import get_ident
from typing import Any, Protocol

from grelmicro._process import current
from grelmicro.errors import OutOfContextError
from grelmicro.providers._redis_commands import Args, check_shared

__all__ = ["ClosedDoor", "Door", "OpenDoor"]


class Door(Protocol):
    """What a provider sends commands through while it is open."""

    async def execute(self, args: Args, repeatable: bool, node: Any = None) -> Any:
        """Send a command, to a node of `nodes()` if one is given."""

    def check_here(self) -> None:
        """Refuse whoever is on another loop than the provider, or anybody if it is not open."""

    async def execute_many(self, commands: Sequence[Args], repeatable: bool) -> list[Any]:
        """Send commands together; their replies, or their errors in the place of these."""

    async def nodes(self) -> Sequence[Any]:
        """What has to be asked for all keys: one node, or each primary of a cluster."""

    async def close(self) -> None:
        """See what is in flight end, within the timeout; then end all connections."""


class ClosedDoor:
    """No way through."""

    def __init__(self, provider: object) -> None:
        self._provider = provider

    def _refusal(self) -> OutOfContextError:
        return OutOfContextError(
            f"{self._provider!r} is not open: "
            "list it in uses=[...] before what borrows it, or enter it"
        )

    def check_here(self) -> None:
        """Refuse."""
        raise self._refusal()

    async def execute(self, args: Args, repeatable: bool, node: Any = None) -> Any:
        """Refuse."""
        raise self._refusal()

    async def execute_many(self, commands: Sequence[Args], repeatable: bool) -> list[Any]:
        """Refuse."""
        raise self._refusal()

    async def nodes(self) -> Sequence[Any]:
        """Refuse."""
        raise self._refusal()

    async def close(self) -> None:
        """Do nothing."""


class OpenDoor:
    """What both ways have in common.

    Args:
        provider: What errors name.
        timeout: Seconds within which every command ends.
    """

    def __init__(self, provider: object, timeout: float) -> None:
        self.loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._process = current.id
        self._provider = provider
        self._timeout = timeout

    def check(self, args: Args) -> None:
        """Refuse a command that cannot go through here.

        Raises:
            OutOfContextError: This is not the loop, or not the process, that it was opened on.
            ValueError: The command would block or change a connection of others.
        """
        self.check_here()
        check_shared(args)

    def check_here(self) -> None:
        """Refuse whoever is elsewhere.

        Raises:
            OutOfContextError: This is not the loop, or not the process, that it was opened on.
        """
        if self._is_elsewhere():
            raise OutOfContextError(
                f"{self._provider!r} was opened on another event loop, or before a fork: "
                "open a provider in each"
            )

    def _is_elsewhere(self) -> bool:
        """Whether the running loop is another one; `get_running_loop` asks the system each time."""
        return (
            get_ident() != self._thread or current.id != self._process or not self.loop.is_running()
        )

    def late(self) -> TimeoutError:
        """The error of a command whose time is over."""
        return TimeoutError(f"{self._provider!r} did not answer in time")
