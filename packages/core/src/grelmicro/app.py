"""The composer: one object that holds, opens and closes what an application uses."""

import asyncio
import warnings
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Self, cast

from grelmicro._component import Component
from grelmicro._kinds import KINDS, Kind, kind_of_adapter
from grelmicro._runtime import OpenApp, context_app, current_app, mark_closed, mark_open
from grelmicro.errors import (
    ComponentAlreadyRegisteredError,
    ComponentNotRegisteredError,
    OutOfContextError,
)
from grelmicro.providers._adapter import ProviderAdapter
from grelmicro.providers._provider import Provider

__all__ = ["Grelmicro"]

_Key = tuple[str, str]


class Grelmicro:
    """Everything an application uses, opened in the declared order and closed in reverse.

    Args:
        uses: Components, providers, bare adapters (wrapped in their component) and any other
            async context managers. A provider alone is a whole wiring: a kind that no component
            claims is served by the one listed provider that supports it.

    Raises:
        ComponentAlreadyRegisteredError: Two components share a kind and a name, or an item is
            listed twice.
        TypeError: An item is none of the above.
    """

    def __init__(self, *, uses: Iterable[object] | None = None) -> None:
        self._items: list[Any] = []
        self._declared: dict[_Key, Any] = {}
        self._implied: dict[str, Any] = {}
        self._overlays: list[dict[_Key, Any]] = []
        self._stack: AsyncExitStack | None = None
        self._outer: Any = None
        self._open = OpenApp(self)
        for item in uses or ():
            self.use(item)

    @property
    def is_open(self) -> bool:
        """Whether the app has been entered and not left."""
        return self._open.is_open

    def use(self, item: object) -> Self:
        """Add one item, before the app is opened.

        Raises:
            OutOfContextError: The app is open, and the item would not be.
            ComponentAlreadyRegisteredError: The item, or one of its kind and name, is there.
            TypeError: The item is nothing that an app can use.
        """
        if self._stack is not None:
            raise OutOfContextError("use(): the app is open; add items before entering it")
        item = _as_item(item, origin=f"uses[{len(self._items)}]")
        if any(item is known for known in self._items):
            raise ComponentAlreadyRegisteredError(f"{item!r} is listed twice in uses=[...]")
        if _is_component(item):
            _add(self._declared, item)
        self._items.append(item)
        self._implied.clear()
        self._refresh()
        return self

    @property
    def components(self) -> tuple[Any, ...]:
        """The declared components, in order."""
        return tuple(self._declared.values())

    @property
    def serving(self) -> Mapping[tuple[str, str], Any]:
        """The components that answer now, by kind and name, implied ones and overrides included."""
        return self._open.serving

    @property
    def providers(self) -> tuple[Provider, ...]:
        """The providers that are listed, or that listed components borrow; each once."""
        found = (
            item if isinstance(item, Provider) else getattr(item, "provider", None)
            for item in self._items
        )
        return tuple(dict.fromkeys(each for each in found if isinstance(each, Provider)))

    @classmethod
    def current(cls) -> "Grelmicro":
        """The context's app; else the only one open in this process.

        Raises:
            NoActiveAppError: No app is open, or several are and none is the context's own.
        """
        return cast("Grelmicro", current_app().app)

    def get(self, kind: str, name: str = "default") -> Any:
        """The component of that kind and name that answers now.

        Raises:
            ComponentNotRegisteredError: There is none; the message says which there are.
        """
        try:
            return self._open.serving[kind, name]
        except KeyError:
            return self._get_implied(kind, name)

    def __getattr__(self, kind: str) -> Any:
        """The default component of a kind, or the only one of it."""
        if kind.startswith("_"):
            raise AttributeError(kind)
        try:
            return self.get(kind)
        except ComponentNotRegisteredError as error:
            named = [item for (known, _), item in self._open.serving.items() if known == kind]
            if len(named) == 1:
                return named[0]
            raise AttributeError(str(error)) from None

    @asynccontextmanager
    async def override(self, *components: object) -> AsyncGenerator[Self, None]:
        """Let other components answer for the block, everywhere in the app.

        They are opened first, and closed after the originals are back. One that fails to open
        leaves the originals in place.

        Args:
            components: Components or bare adapters; each takes the place of the one with its
                kind and name.

        Raises:
            OutOfContextError: The app is not open.
        """
        if not self.is_open:
            raise OutOfContextError("override(): the app is not open; enter it first")
        overlay: dict[_Key, Any] = {}
        for component in components:
            _add(overlay, _as_component(component))
        async with AsyncExitStack() as stack:
            await _open_all(stack, overlay.values())
            with self._overlaid(overlay):
                yield self

    async def __aenter__(self) -> Self:
        """Open every item in the declared order; on failure, close what was open.

        Raises:
            OutOfContextError: The app is open already.
        """
        if self._stack is not None:
            raise OutOfContextError("this app is open already: make another one, or leave it first")
        self._warn_about_order()
        self._stack = AsyncExitStack()
        try:
            self._imply_all()
            await _open_all(self._stack, [*self._items, *self._implied.values()])
        except BaseException as error:
            await _unwind(self._stack, error)
            self._stack = None
            raise
        self._outer, self._open.is_open = context_app(), True
        mark_open(self._open)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Close everything in reverse, all of it even after errors."""
        if self._stack is None:
            raise OutOfContextError("this app is not open")
        try:
            return await self._stack.__aexit__(exc_type, exc, traceback)
        finally:
            self._open.is_open = False
            self._stack = None
            mark_closed(self._open, self._outer)
            self._outer = None

    def _refresh(self) -> None:
        implied = {(kind, "default"): item for kind, item in self._implied.items()}
        serving = {**self._declared, **implied}
        for overlay in self._overlays:
            serving.update(overlay)
        self._open.serving = serving

    @contextmanager
    def _overlaid(self, overlay: dict[_Key, Any]) -> Generator[None, None, None]:
        with _stand_ins(self._open.serving, overlay):
            self._overlays.append(overlay)
            self._refresh()
            try:
                yield
            finally:
                self._overlays = [known for known in self._overlays if known is not overlay]
                self._refresh()

    def _imply_all(self) -> None:
        for kind in KINDS.values():
            self._imply(kind)

    def _imply(self, kind: Kind) -> None:
        supporters = self._supporters(kind)
        if kind.name not in self._implied and len(supporters) == 1:
            self._implied[kind.name] = kind.wrap(supporters[0])
            self._refresh()

    def _supporters(self, kind: Kind) -> list[Provider]:
        """The listed providers that could serve a kind that no component claims."""
        if any(claimed == kind.name for claimed, _ in self._declared):
            return []
        providers = [item for item in self._items if isinstance(item, Provider)]
        return [provider for provider in providers if kind.name in provider.supports]

    def _get_implied(self, kind: str, name: str) -> Any:
        if kind in KINDS and name == "default":
            self._imply(KINDS[kind])
        try:
            return self._open.serving[kind, name]
        except KeyError:
            raise ComponentNotRegisteredError(self._why_not(kind, name)) from None

    def _why_not(self, kind: str, name: str) -> str:
        supporters = self._supporters(KINDS[kind]) if kind in KINDS else []
        if name == "default" and len(supporters) > 1:
            names = " and ".join(map(repr, supporters))
            wrap = KINDS[kind].component_name
            return f"{names} could both serve {kind!r}: list {wrap}(...) with the one you mean"
        known = ", ".join(f"{k} {n!r}" for k, n in self._open.serving) or "none"
        return f"the app has no {kind} component named {name!r}; it has: {known}"

    def _warn_about_order(self) -> None:
        for position, item in enumerate(self._items):
            provider = getattr(item, "provider", None)
            if isinstance(provider, Provider) and (where := self._misplaced(provider, position)):
                warnings.warn(
                    f"{provider!r}, which {item!r} borrows, {where}: list it before",
                    UserWarning,
                    stacklevel=3,
                )

    def _misplaced(self, provider: Provider, position: int) -> str:
        places = [place for place, item in enumerate(self._items) if item is provider]
        if not places:
            return "is not listed in uses=[...] and will not be opened"
        return f"is listed after it, at uses[{places[0]}]" if places[0] > position else ""

    def __repr__(self) -> str:
        return f"Grelmicro(uses={self._items!r})"


def _is_component(item: object) -> bool:
    return all(isinstance(getattr(item, name, None), str) for name in ("kind", "name"))


def _is_context_manager(item: object) -> bool:
    return all(callable(getattr(item, name, None)) for name in ("__aenter__", "__aexit__"))


def _as_item(item: object, *, origin: str) -> Any:
    if isinstance(item, type) or not _is_context_manager(item):
        raise TypeError(
            f"{origin}: expected a component, a provider, an adapter or another async context "
            f"manager, not {_described(item)}"
        )
    if _is_component(item) or isinstance(item, Provider):
        return item
    kind = kind_of_adapter(item)
    return kind.wrap(item) if kind else item


def _described(item: object) -> str:
    if isinstance(item, type):
        return f"the class {item.__name__} itself: pass an instance"
    return f"a {type(item).__name__}"


def _as_component(item: object) -> Any:
    component = _as_item(item, origin="override()")
    if not _is_component(component):
        raise TypeError(f"override(): {component!r} is no component: wrap it, as in Cache(...)")
    return component


def _add(components: dict[_Key, Any], component: Any) -> None:
    key = (component.kind, component.name)
    if key in components:
        raise ComponentAlreadyRegisteredError(
            f"a {component.kind} component named {component.name!r} is there already: "
            "give one of the two another name="
        )
    components[key] = component


@contextmanager
def _stand_ins(
    serving: Mapping[_Key, Any], overlay: dict[_Key, Any]
) -> Generator[None, None, None]:
    """Tell the replaced components who answers for them."""
    with ExitStack() as stack:
        for key, replacement in overlay.items():
            original = serving.get(key)
            if isinstance(original, Component) and isinstance(replacement, Component):
                stack.enter_context(original.replaced_by(replacement))
        yield


async def _open_all(stack: AsyncExitStack, items: Iterable[Any]) -> None:
    """Open `items` in order; adapters that would each make an equal provider share the first."""
    shared: dict[object, Provider] = {}
    for item in items:
        adapter = getattr(item, "backend", None)
        if isinstance(adapter, ProviderAdapter) and adapter.makes_its_own:
            if adapter.sharing_key not in shared:
                shared[adapter.sharing_key] = adapter.provider
                await stack.enter_async_context(adapter.provider)
            stack.enter_context(adapter.sharing(shared[adapter.sharing_key]))
        await stack.enter_async_context(item)


async def _unwind(stack: AsyncExitStack, error: BaseException) -> None:
    """Close what was open; trouble in doing so is noted on `error`, which stays what is raised."""
    try:
        await stack.__aexit__(type(error), error, error.__traceback__)
    except asyncio.CancelledError:
        raise
    except BaseException as trouble:
        if trouble is not error:
            error.add_note(f"while closing what was open already: {trouble!r}")
