"""Loading plugins: each once, in whichever order and from whichever task they are asked for."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

from grelmicro.inject.engine import declare, node_of
from grelmicro.service._references import Plugin, Reference, absolute, calling_package, resolve
from grelmicro.service._resolving import Resolver
from grelmicro.service.context import Context, entered

__all__ = ["Loader", "dismiss"]

Accept = Callable[[Plugin, Sequence[Awaitable[Any]]], None]


class Loader:
    """Loads plugins: `await load("pkg.mod")`. In the context of every stage.

    Args:
        context: Where plugins add components.
        accept: Who takes what they want to be run.
    """

    def __init__(self, context: Context, accept: Accept) -> None:
        self._context = context
        self._accept = accept
        self._loads: dict[Any, _Load] = {}
        self.interrupted: list[str] = []
        """The plugins whose own preparation was cancelled, rather than that of one they load."""

    def __call__(self, reference: Reference) -> Awaitable[None]:
        """Prepare a plugin, unless that was done; what it wants to be run is run by the stage.

        A plugin that is being prepared further up is not waited for: the circle ends there.

        Args:
            reference: "pkg.mod", ".relative.to.the.calling.module", "pkg.mod:attribute", a module,
                or the `prepare` function itself.

        Raises:
            ImportError: There is no such module.
            ValueError: It is no plugin.
        """
        return self.load(absolute(reference, calling_package(1)))

    async def load(self, reference: Reference) -> None:
        """Load a plugin by a reference that is not relative."""
        plugin = resolve(reference)
        around = _around.get()
        while (load := self._loads.get(plugin.prepare)) is not None:
            if load.over.is_set() or _leads_back(load, around):
                return
            await _wait_for(load, around)
        await self._prepare(plugin, around)

    async def _prepare(self, plugin: Plugin, around: "tuple[_Load, ...]") -> None:
        load = self._loads[plugin.prepare] = _Load(plugin)
        token = _around.set((*around, load))
        try:
            with _waiting(load, around), entered(self._context):
                found = await self._run(plugin)
        except BaseException as error:
            del self._loads[plugin.prepare]
            load.error = error if isinstance(error, Exception) else None
            if load.error is None and not load.interrupted:
                self.interrupted.append(plugin.name)
            for each in around:
                each.interrupted = load.error is None
            raise
        finally:
            _around.reset(token)
            load.over.set()
        self._accept(plugin, found)

    async def _run(self, plugin: Plugin) -> list[Awaitable[Any]]:
        args, kwargs = await _arguments(self._context, plugin)
        made = plugin.prepare(*args, **kwargs)
        found: list[Awaitable[Any]] = []
        try:
            if plugin.yields:
                await _collect(plugin, made, found)
            else:
                found += _listed(await made)
            for each in found:
                _check(plugin, each)
        except BaseException:
            for each in found:
                dismiss(each)
            raise
        return found


class _Load:
    """A plugin that is being prepared, or was."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        self.over = asyncio.Event()
        self.error: Exception | None = None
        self.waits: set[_Load] = set()
        """What has to be over before this can be."""
        self.interrupted = False
        """Whether one that it loads was."""


_around: ContextVar[tuple[_Load, ...]] = ContextVar("grelmicro_service_loads", default=())
"""The plugins whose preparation this is part of."""


class _waiting:  # noqa: N801 - it reads as a verb
    """For the block, let the innermost plugin of `around` wait for a load."""

    def __init__(self, load: _Load, around: tuple[_Load, ...]) -> None:
        self._load = load
        self._waits = around[-1].waits if around else set()

    def __enter__(self) -> None:
        self._waits.add(self._load)

    def __exit__(self, *_: object) -> None:
        self._waits.discard(self._load)


async def _wait_for(load: _Load, around: tuple[_Load, ...]) -> None:
    with _waiting(load, around):
        await load.over.wait()
    if load.error is not None:
        raise load.error


def _leads_back(load: _Load, around: tuple[_Load, ...]) -> bool:
    """Whether waiting for it would be waiting for ourselves."""
    ahead, seen = [load], {load}
    while ahead:
        each = ahead.pop()
        if each in around:
            return True
        ahead += each.waits - seen
        seen |= each.waits
    return False


async def _arguments(context: Context, plugin: Plugin) -> tuple[list[Any], dict[str, Any]]:
    """What `prepare` is called with."""
    declaration = declare(plugin.prepare, "prepare", "request", autouse=False, lazy=False)
    node = node_of(declaration)
    if not node.parameters:
        return [], {}
    plan = Resolver(context).plan_for_call(node, f"the plugin {plugin.name!r}")
    values = await plan.values({})
    *_, places, names = node.step
    return [values[each] for each in places], {name: values[each] for name, each in names}


async def _collect(
    plugin: Plugin, made: AsyncGenerator[Any, None], found: list[Awaitable[Any]]
) -> None:
    async with aclosing(made) as stream:
        async for each in stream:
            _check(plugin, each)
            found.append(each)


def _listed(result: Any) -> Iterable[Any]:
    if result is None:
        return []
    if isinstance(result, Awaitable | str | bytes):
        return [result]
    return [*result] if isinstance(result, Iterable) else [result]


def _check(plugin: Plugin, each: object) -> None:
    if not isinstance(each, Awaitable):
        raise ValueError(
            f"the plugin {plugin.name!r} wants {type(each).__name__!r} to be run: what prepare "
            "yields or returns are coroutines or other awaitables"
        )


def dismiss(work: object) -> None:
    """Forget something that will not be run."""
    if asyncio.iscoroutine(work):
        work.close()
    elif isinstance(work, asyncio.Future):
        work.cancel()
