"""A scope: what was built for one request, or for the app, and the way it is built and closed."""

import asyncio
from collections.abc import Callable, Generator, Iterable, Mapping
from types import CoroutineType, MappingProxyType, TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeVar, overload

from grelmicro.errors import OutOfContextError
from grelmicro.inject._completing import complete
from grelmicro.inject._declarations import Kind
from grelmicro.inject._errors import ProviderYieldError
from grelmicro.inject._nodes import Node, Step
from grelmicro.inject._shield import shielded
from grelmicro.inject._teardown import Exits, unwind

__all__ = ["Host", "Linked", "Scope"]

T = TypeVar("T")

_ABSENT, _PENDING = object(), object()
_ASYNC_GENERATOR, _GENERATOR = Kind.ASYNC_GENERATOR, Kind.GENERATOR
_AWAIT, _LAZY = Kind.AWAIT, Kind.LAZY


class Linked(NamedTuple):
    """A plan together with the app-scoped values that it reads."""

    steps: tuple[Step, ...]
    constants: dict[Node, Any]
    given: tuple[tuple[str, Node], ...]
    arguments: tuple[tuple[str, Node], ...] = ()
    """Which of its function's parameters get which values."""
    is_shared: bool = True
    """Whether something that it builds can ask the scope for more: a lazy provider."""


class Host(Protocol):
    """What a scope needs of its container."""

    grace: float

    def find(self, key: object) -> Node: ...

    @property
    def given(self) -> Mapping[str, Node]: ...

    async def link_node(self, node: Node) -> Linked: ...

    async def link_autouse(self) -> Linked: ...

    async def call_in(self, scope: "Scope", function: Any, args: Any, kwargs: Any) -> Any: ...


class Scope:
    """The providers of one request; made by `Container.scope`, and entered with `async with`.

    Every provider is built at most once in it, whoever asks, in whichever task. What was opened is
    closed in reverse when the scope is left.
    """

    is_open: bool = True
    """Whether it can still build."""
    _given: Mapping[str, Any] = MappingProxyType({})
    _waiters: dict[Node, list[asyncio.Future[BaseException | None]]] | None = None

    def __init__(self, host: Host, values: dict[Node, Any]) -> None:
        self._host = host
        self.exits: Exits = []
        """What is to be closed."""
        self.values: dict[Node, Any] = values
        """What is there, by node."""

    @overload
    async def get(self, key: type[T], /, **arguments: Any) -> T: ...

    @overload
    async def get(self, key: str | Callable[..., Any], /, **arguments: Any) -> Any: ...

    async def get(self, key: Any, /, **arguments: Any) -> Any:
        """The value of a provider, which is built if it is not there yet; a lazy one is evaluated.

        Args:
            key: A name, a type, or the function that was declared.
            arguments: Passed to the provider, or to what it needs and nothing provides. What
                depends on them is built for this call alone; it is closed with the scope.

        Raises:
            ProviderNotFoundError: Nothing provides the key, or several do.
            OutOfContextError: The scope is closed.
            TypeError: An argument is missing, or nothing takes it.
        """
        self._check_open()
        if isinstance(key, str) and key in self._given:
            return self._given[key]
        node = self._host.find(key)
        if arguments:
            return await complete(self, node.body or node, arguments)
        return await self.obtain(node.body or node)

    async def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, sync or async, with what it asks for; the rest is passed on.

        Raises:
            GraphError: Something it asks for cannot be provided.
        """
        return await self._host.call_in(self, function, args, kwargs)

    async def obtain(self, node: Node) -> Any:
        """The value of a node; built once, by whoever comes first."""
        value = self.values.get(node, _ABSENT)
        if value is _ABSENT or value is _PENDING:
            linked = await self._host.link_node(node)
            await self.add(linked)
            value = self.values[node]
        return value

    async def add(self, linked: Linked) -> None:
        """Build what a plan asks for and what is not there yet."""
        self._check_open()
        for node, value in linked.constants.items():
            self.values.setdefault(node, value)
        self.check_given(linked)
        await self.build(linked.steps)

    async def build_apart(self, steps: list[Step], given: Mapping[Node, Any]) -> Any:
        """Run steps that nobody shares; the last value. The scope closes what they open."""
        apart = Scope(self._host, {**self.values, **given})
        apart.exits = self.exits
        for node, *_ in steps:
            apart.values.pop(node, None)
        await apart.build(steps)
        if not self.is_open:
            await self._undo(steps[-1][0])
        return apart.values[steps[-1][0]]

    def _check_open(self) -> None:
        if not self.is_open:
            raise OutOfContextError("this scope is closed: what was injected ended with it")

    def give(self, given: Mapping[str, Any]) -> None:
        """Take what the scope is opened with."""
        self._given = given
        for name, node in self._host.given.items():
            if name in given:
                self.values[node] = given[name]

    def check_given(self, linked: Linked) -> None:
        """Refuse to build where something was not given."""
        for name, node in linked.given:
            if node not in self.values:
                raise TypeError(
                    f"missing {name!r}, which nothing provides: give it to the scope, as in "
                    f"scope({name}=...), or pass it, as in get(..., {name}=...)"
                )

    async def build_alone(self, steps: Iterable[Step]) -> None:
        """Run down a plan while nobody else can ask this scope for anything.

        Every request does this: it is written out, and has nothing of what `build` shares by.
        """
        values, exits = self.values, self.exits
        for node, kind, function, only, places, names in steps:
            if only is not None:
                made = function(values[only])
            else:
                made = _made(function, values, places, names)
            if kind is _ASYNC_GENERATOR:
                try:
                    values[node] = await made.__anext__()
                except StopAsyncIteration as error:
                    raise _without_yield(node) from error
                exits.append((node, made))
            elif kind is _GENERATOR:
                try:
                    values[node] = next(made)
                except StopIteration as error:
                    raise _without_yield(node) from error
                exits.append((node, made))
            elif kind is _AWAIT or type(made) is CoroutineType:
                values[node] = await made
            else:
                values[node] = made

    async def build(self, steps: Iterable[Step]) -> None:
        """Run down a plan beside others that may do so: each value is built by one of them."""
        values, exits = self.values, self.exits
        for node, kind, function, _, places, names in steps:
            if (found := values.get(node, _ABSENT)) is not _ABSENT and (
                found is not _PENDING or await self._built_elsewhere(node)
            ):
                continue
            if kind is _LAZY:
                values[node] = _Lazy(self, node)
                continue
            try:
                made = _made(function, values, places, names)
                if kind is _ASYNC_GENERATOR:
                    values[node] = _PENDING
                    value = await made.__anext__()
                    exits.append((node, made))
                elif kind is _GENERATOR:
                    value = next(made)
                    exits.append((node, made))
                elif kind is _AWAIT or type(made) is CoroutineType:
                    values[node] = _PENDING
                    value = await made
                else:
                    value = made
                if not self.is_open:
                    await self._undo(node)
            except BaseException as error:
                self._abandon(node, error)
                raise
            values[node] = value
            if self._waiters:
                self._wake(node, None)

    async def _built_elsewhere(self, node: Node) -> bool:
        """Wait for who builds a node; False if that was cancelled, and we are to build it."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters = self._waiters or {}
        self._waiters.setdefault(node, []).append(waiter)
        if (error := await waiter) is not None:
            raise error
        found = self.values.get(node, _ABSENT)
        return found is not _ABSENT and (found is not _PENDING or await self._built_elsewhere(node))

    def _wake(self, node: Node, error: BaseException | None) -> None:
        for waiter in (self._waiters or {}).pop(node, ()):
            if not waiter.done():
                waiter.set_result(error)

    def _abandon(self, node: Node, error: BaseException) -> None:
        """Take back the claim to build a node; who waits hears of errors, not of a cancellation."""
        self.values.pop(node, None)
        self._wake(node, error if isinstance(error, Exception) else None)
        if isinstance(error, StopIteration | StopAsyncIteration):
            raise _without_yield(node) from error

    async def _undo(self, node: Node) -> None:
        error = OutOfContextError(f"the scope was closed while {node.declaration} was being built")
        await self.close(error)
        raise error

    async def close(self, error: BaseException | None) -> None:
        """Close everything that was opened; a cancellation waits until it is done.

        Raises:
            BaseException: The first error of the teardown, unless there is an `error`.
            asyncio.CancelledError: The task was cancelled meanwhile, and there was no error at all.
        """
        self.is_open = False
        if not self.exits:
            return
        is_cancelled = isinstance(error, asyncio.CancelledError)
        work = unwind(self.exits, error)
        trouble, cancelled = await shielded(work, self._host.grace, is_cancelled)
        if error is None and (raised := trouble or cancelled) is not None:
            raise raised

    async def __aenter__(self) -> Self:
        """Run the providers that are used automatically."""
        try:
            await self.add(await self._host.link_autouse())
        except BaseException as error:
            await self.close(error)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close everything in reverse; an error of the block is what the providers hear of."""
        await self.close(exc)


def _made(
    function: Callable[..., Any],
    values: Mapping[Node, Any],
    places: Iterable[Node],
    names: Iterable[tuple[str, Node]],
) -> Any:
    named = {name: values[each] for name, each in names}
    return function(*[values[each] for each in places], **named)


def _without_yield(node: Node) -> ProviderYieldError:
    return ProviderYieldError(f"{node.declaration} ended without a yield")


class _Lazy:
    """What a lazy provider injects: awaited, it is evaluated, at most once."""

    __slots__ = ("_error", "_node", "_scope")

    def __init__(self, scope: Scope, node: Node) -> None:
        self._scope = scope
        self._node = node
        self._error: Exception | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        return self._evaluated().__await__()

    async def _evaluated(self) -> Any:
        if self._error is not None:
            raise self._error
        try:
            return await self._scope.obtain(self._node.body or self._node)
        except Exception as error:
            self._error = error
            raise

    def __repr__(self) -> str:
        return f"<lazy {self._node.label}>"
