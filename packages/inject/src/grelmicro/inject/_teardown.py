"""Closing what providers opened: in reverse, one after the other, all of it even after errors."""

import logging
from types import TracebackType
from typing import Any

from grelmicro.inject._declarations import Kind
from grelmicro.inject._errors import ProviderYieldError
from grelmicro.inject._nodes import Node
from grelmicro.inject._yields import takes_errors

__all__ = ["Exits", "unwind"]

Exits = list[tuple[Node, Any]]
"""What is open, in the order of opening: nodes with their generators."""

_ASYNC_GENERATOR = Kind.ASYNC_GENERATOR

_log = logging.getLogger("grelmicro.inject")
_Stops = (StopIteration, StopAsyncIteration)


async def unwind(exits: Exits, error: BaseException | None) -> BaseException | None:
    """Close everything, and empty the list.

    The first error, be it the view's or a teardown's, is what the providers below hear of; errors
    after it become notes on it.

    Args:
        exits: What is open.
        error: The view's error, if it failed.

    Returns:
        The error to raise: the view's own, else the first of the teardown.
    """
    traceback = error.__traceback__ if error is not None else None
    while exits:
        node, generator = exits.pop()
        try:
            if error is not None and takes_errors(generator):
                await _throw(generator, error)
            elif node.kind is _ASYNC_GENERATOR:
                await generator.__anext__()
            else:
                next(generator)
        except _Stops:  # it has ended
            continue
        except BaseException as raised:  # the others have to be closed whatever it is
            trouble = raised
        else:
            trouble = await _refused(node, generator)
        if trouble is not error:
            error, traceback = _with(error, traceback, trouble, node)
    return error if error is None else error.with_traceback(traceback)


_Outcome = tuple[BaseException, TracebackType | None]


def _with(
    error: BaseException | None,
    traceback: TracebackType | None,
    trouble: BaseException,
    node: Node,
) -> _Outcome:
    """The error that goes on, and its traceback without the frames that it was thrown into."""
    if error is None:
        _log.error("%s failed in its teardown", node.declaration, exc_info=trouble)
        return trouble, trouble.__traceback__
    if not _is_wrapped(trouble, error):
        _log.error("%s failed in its teardown", node.declaration, exc_info=trouble)
        error.add_note(f"{node.declaration} failed in its teardown: {trouble!r}")
    return error, traceback


async def _throw(generator: Any, error: BaseException) -> None:
    """Throw an error in, and raise what comes out: StopAsyncIteration when the generator ended."""
    if hasattr(generator, "athrow"):
        await generator.athrow(error)
        return
    try:
        generator.throw(error)
    except StopIteration:  # which a coroutine cannot raise
        raise StopAsyncIteration from None


def _is_wrapped(trouble: BaseException, error: BaseException) -> bool:
    """Whether it is the error again: PEP 479 wraps one that says that an iteration is over."""
    return isinstance(error, _Stops) and trouble.__cause__ is error


async def _refused(node: Node, generator: Any) -> BaseException:
    """Close what yielded a second time; what it does about it is added."""
    refusal = ProviderYieldError(f"{node.declaration} yielded twice: a provider yields once")
    try:
        if hasattr(generator, "aclose"):
            await generator.aclose()
        else:
            generator.close()
    except BaseException as trouble:  # its own affair by now
        refusal.add_note(f"closing it then failed: {trouble!r}")
    return refusal
