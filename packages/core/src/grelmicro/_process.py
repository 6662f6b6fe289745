"""Which process this is, without asking the system each time."""

import os

__all__ = ["current"]


class _Process:
    """This process: after a fork, the child."""

    __slots__ = ("id",)

    def __init__(self) -> None:
        self.look()

    def look(self) -> None:
        """Ask the system."""
        self.id = os.getpid()


current = _Process()
"""A cache of one fact, which only a fork changes."""

if hasattr(os, "register_at_fork"):  # nobody forks where it is missing
    os.register_at_fork(after_in_child=current.look)
