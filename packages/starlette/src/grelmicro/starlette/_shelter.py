"""What keeps anyio's cancellation out of a teardown.

A container holds back what cancels the task that it closes in. But a cancel scope of anyio that was
cancelled, such as that of a middleware which lost its client, stays so, and anyio's own primitives
ask for it: in a teardown they would wait for an error that does not come. So there is a scope of
our own below it, entered before anything is built, which becomes a shield when something failed. A
provider may hold task groups and scopes over its `yield`: they are within it.
"""

from math import inf
from types import TracebackType
from typing import Self

from anyio import CancelScope, current_effective_deadline

__all__ = ["Shelter"]


class Shelter:
    """A cancel scope of anyio that can become a shield; how long it is one, the container says."""

    def __init__(self) -> None:
        self._scope = CancelScope()

    def __enter__(self) -> Self:
        """Begin, without a shield."""
        self._scope.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End; a cancellation goes on in what is around it."""
        self._scope.__exit__(exc_type, exc, traceback)

    def shield(self) -> None:
        """Keep a cancellation out from now on, if that is what ended the view."""
        if current_effective_deadline() == -inf:
            self._scope.shield = True
