"""Components by their class, their bases and their names, in layers of which the nearest counts.

The functions of this module work on the current context: that of the stage, inside of one; else one
that begins with the first `add`, and belongs to whoever shares the context variables of its caller.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, overload

__all__ = ["Context", "add", "child", "current", "find", "get", "pop", "push"]

T = TypeVar("T")
D = TypeVar("D")

_MISSING: Any = object()


class Layer(dict[Any, Any]):
    """The components of one layer: by class, by name, and by both; and the adapters of `di`."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters: list[Callable[..., Any]] = []
        self.version: int = 0
        """Grows with every change."""

    def enter(self, component: Any, name: str | None) -> None:
        """Take in a component; its own class means it, rather than one that is derived."""
        cls = type(component)
        for base in cls.__mro__[:-1]:
            key = base if name is None else (base, name)
            if base is cls or type(self.get(key)) is not base:
                self[key] = component
        if name is not None:
            self[name] = component
        self.version += 1


class Context:
    """Layers of components; what is added goes to the nearest.

    Args:
        outer: The context around it, whose components are seen as well.
    """

    def __init__(self, outer: "Context | None" = None) -> None:
        self.layers: tuple[Layer, ...] = (Layer(), *(outer.layers if outer else ()))
        """The nearest first."""
        self.outer: Context | None = outer
        self.plans: dict[Any, tuple[int, Any]] = {}
        """What `di` found out, and at which version."""

    def add(self, component: T, *, name: str | None = None) -> T:
        """Take in a component: see `add`."""
        if isinstance(component, type):
            raise ValueError(
                f"add({component.__name__}): a component is an object, not a class: "
                f"add an instance, or register the class with di.register({component.__name__})"
            )
        if name is not None and (not isinstance(name, str) or not name):
            raise ValueError("add(component, name=...): a name is a non-empty string")
        self.layers[0].enter(component, name)
        return component

    @overload
    def get(self, key: type[T], *, name: str | None = None) -> T: ...

    @overload
    def get(self, key: type[T], *, name: str | None = None, default: D) -> T | D: ...

    @overload
    def get(self, key: str) -> Any: ...

    @overload
    def get(self, key: str, *, default: Any) -> Any: ...

    def get(self, key: Any, *, name: str | None = None, default: Any = _MISSING) -> Any:
        """Find a component: see `get`."""
        wanted = key if name is None else (key, name)
        for layer in self.layers:
            found = layer.get(wanted, _MISSING)
            if found is not _MISSING:
                return found
        return _absent(self, key, name, default)

    def find(self, cls: type[T]) -> Mapping[str | None, T]:
        """All components of a class: see `find`."""
        found: dict[str | None, T] = {}
        for layer in reversed(self.layers):
            if cls in layer:
                found[None] = layer[cls]
            found |= {key[1]: value for key, value in layer.items() if _is_named(key, cls)}
        return found

    def version(self) -> int:
        """A number that grows with every change of any layer."""
        return sum([layer.version for layer in self.layers])


_current: ContextVar[Context | None] = ContextVar("grelmicro_service_context", default=None)


def current() -> Context:
    """The context that the functions of this module work on."""
    found = _current.get()
    if found is None:
        found = Context()
        _current.set(found)
    return found


def add(component: T, *, name: str | None = None) -> T:
    """Take a component into the nearest layer, under its class and every base of that.

    It replaces what was there under the same class and name. A component is found by its own
    class before another one is that has this class among its bases.

    Args:
        component: Any object that is no class.
        name: Tells it from others of its class. `get` finds it only with this name.

    Returns:
        The component.

    Raises:
        ValueError: It is a class, or the name is no non-empty string.
    """
    return current().add(component, name=name)


@overload
def get(key: type[T], *, name: str | None = None) -> T: ...


@overload
def get(key: type[T], *, name: str | None = None, default: D) -> T | D: ...


@overload
def get(key: str) -> Any: ...


@overload
def get(key: str, *, default: Any) -> Any: ...


def get(key: Any, *, name: str | None = None, default: Any = _MISSING) -> Any:
    """Find a component, in the nearest layer that has it.

    Args:
        key: Its class, a base of that, or its name.
        name: The name it was added with; without one, only components without a name are found.
        default: What is returned when there is none.

    Raises:
        LookupError: There is none, and no default.
    """
    wanted = key if name is None else (key, name)
    found = _current.get()
    if found is None:
        return _absent(Context(), key, name, default)
    for layer in found.layers:
        component = layer.get(wanted, _MISSING)
        if component is not _MISSING:
            return component
    return _absent(found, key, name, default)


def find(cls: type[T]) -> Mapping[str | None, T]:
    """All components of a class, by name; the one without a name under None."""
    return current().find(cls)


@contextmanager
def child() -> Generator[Context, None, None]:
    """Open a layer of its own for the block; what is added in it is forgotten at its end."""
    with entered(Context(current())) as inner:
        yield inner


def push() -> Context:
    """Open a layer until `pop`; prefer `child` where a block will do."""
    inner = Context(current())
    _current.set(inner)
    return inner


def pop() -> Context:
    """Leave the layer that `push` has opened.

    Raises:
        LookupError: There is none.
    """
    inner = _current.get()
    if inner is None or inner.outer is None:
        raise LookupError("pop(): there is no layer that push() has opened")
    _current.set(inner.outer)
    return inner


@contextmanager
def entered(inner: Context) -> Generator[Context, None, None]:
    """Make a context the current one for the block."""
    token = _current.set(inner)
    try:
        yield inner
    finally:
        _current.reset(token)


def _is_named(key: object, cls: type) -> bool:
    return isinstance(key, tuple) and key[0] is cls


def _absent(context: Context, key: Any, name: str | None, default: Any) -> Any:
    if default is not _MISSING:
        return default
    what = f"a component named {key!r}" if isinstance(key, str) else getattr(key, "__name__", key)
    named = "" if name is None else f" named {name!r}"
    others = "" if isinstance(key, str) else _others(context, key)
    raise LookupError(
        f"there is no {what}{named} in the context{others}: add one, or pass default="
    )


def _others(context: Context, cls: type) -> str:
    names = [repr(name) for name in context.find(cls) if name is not None]
    if None in context.find(cls):
        names.append("one without a name")
    return f"; there is {' and '.join(names)}" if names else ""
