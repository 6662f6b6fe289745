"""Tests on a stage, whichever plugin of pytest runs them."""

import asyncio
import functools
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from inspect import iscoroutinefunction
from typing import Any

import pytest

from grelmicro.service._references import Reference
from grelmicro.service._stage import Stage
from grelmicro.service.context import entered

__all__ = ["staged"]


@contextmanager
def staged(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """For the block, let the test be a function that prepares its plugins before, and undoes them.

    Fixtures are no place for that: they run in another task than the test, or on another loop.
    """
    stage: Stage = request.getfixturevalue("grelmicro_stage")
    marks = reversed([*request.node.iter_markers("grelmicro_plugins")])
    references = [each for mark in marks for each in mark.args]
    node, test = request.node, request.node.obj
    node.obj = (_on_a_loop if iscoroutinefunction(test) else _by_itself)(test, stage, references)
    try:
        with entered(stage.plugin_context):
            yield
    finally:
        node.obj = test


def _on_a_loop(
    test: Callable[..., Any], stage: Stage, references: list[Reference]
) -> Callable[..., Any]:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        async with stage.prepared(references):
            await test(*args, **kwargs)

    return run


def _by_itself(
    test: Callable[..., Any], stage: Stage, references: list[Reference]
) -> Callable[..., Any]:
    """Around a test that is no coroutine, plugins have a loop of their own, which stands still."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with closing(asyncio.new_event_loop()) as loop:
            outcome: asyncio.Future[None] = loop.create_future()
            holder = loop.run_until_complete(_prepared(stage, references, outcome))
            try:
                test(*args, **kwargs)
            except BaseException as error:  # plugins may want to know
                outcome.set_exception(error)
            else:
                outcome.set_result(None)
            loop.run_until_complete(holder)

    return run


async def _prepared(
    stage: Stage, references: list[Reference], outcome: asyncio.Future[None]
) -> asyncio.Task[None]:
    """A task that has prepared plugins, and undoes that once the outcome is there."""
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def hold() -> None:
        async with stage.prepared(references):
            ready.set_result(None)
            await outcome

    holder = asyncio.create_task(hold())
    await asyncio.wait([holder, ready], return_when=asyncio.FIRST_COMPLETED)
    if holder.done():
        holder.result()
    return holder
