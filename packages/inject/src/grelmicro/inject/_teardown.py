"""Closing what providers opened: in reverse, one after the other, all of it even after errors."""

import logging
from collections.abc import Generator
from types import TracebackType

from grelmicro.inject._errors import ProviderYieldError
from grelmicro.inject._nodes import Node
from grelmicro.inject._yields import Suspended, takes_errors

__all__ = ["Exits", "unwind"]

Exits = list[tuple[Node, Suspended]]
"""What is open, in the order of opening."""

_log = logging.getLogger("grelmicro.inject")
_Stops = (StopIteration, StopAsyncIteration)


async def unwind(exits: Exits, error: BaseException | None) -> BaseException | None:
    """Close everything, and empty the list.

    The first error, be it the view's or a teardown's, is what the providers below hear of; errors after it
    become notes on it.

    Args:
        exits: What is open.
        error: The view's error, if it failed.

    Returns:
        The error to raise: the view's own, else the first of the teardown.
    """
    traceback = error.__traceback__ if error is not None else None
    while exits:
        node, generator = exits.pop()
        trouble = await _finish(node, generator, error)
        if trouble is None:
            continue
        _log.error("%s failed in its teardown", node.declaration, exc_info=trouble)
        if error is None:
            error, traceback = trouble, trouble.__traceback__
        else:
            error.add_note(f"{node.declaration} failed in its teardown: {trouble!r}")
    return _restored(error, traceback)


def _restored(error: BaseException | None, traceback: TracebackType | None) -> BaseException | None:
    """Without the frames of the generators that the error was thrown into."""
    return error if error is None else error.with_traceback(traceback)


async def _finish(
    node: Node, generator: Suspended, error: BaseException | None
) -> BaseException | None:
    """Run a generator to its end, which the error is thrown into where it belongs."""
    thrown = error if error is not None and takes_errors(generator) else None
    try:
        if not isinstance(generator, Generator):
            await (generator.__anext__() if thrown is None else generator.athrow(thrown))
        elif thrown is None:
            next(generator)
        else:
            generator.throw(thrown)
    except _Stops:  # it has ended
        return None
    except BaseException as trouble:  # the others have to be closed whatever it is
        return None if _is_same(trouble, error) else trouble
    return await _close(node, generator)


def _is_same(trouble: BaseException, error: BaseException | None) -> bool:
    """Whether it is the error again; PEP 479 wraps one that says that an iteration is over."""
    return trouble is error or (isinstance(error, _Stops) and trouble.__cause__ is error)


async def _close(node: Node, generator: Suspended) -> BaseException:
    """Refuse a second yield; what the generator does about it is added."""
    refusal = ProviderYieldError(f"{node.declaration} yielded twice: a provider yields once")
    try:
        if isinstance(generator, Generator):
            generator.close()
        else:
            await generator.aclose()
    except BaseException as trouble:  # its own affair by now
        refusal.add_note(f"closing it then failed: {trouble!r}")
    return refusal
