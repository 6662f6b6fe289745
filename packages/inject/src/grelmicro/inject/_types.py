"""What annotations say, and whether one type serves where another is asked for."""

import inspect
import types
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, NewType, TypeVar, Union, get_args, get_origin

__all__ = [
    "UNKNOWN",
    "Unresolved",
    "annotations_of",
    "awaited_type",
    "bare_type",
    "bases_of",
    "contradict",
    "is_asked_by_type",
    "keys_of",
    "serves",
    "type_name",
    "yielded_type",
]

UNKNOWN = Any
"""Of what has no annotation."""

_STREAMS = (AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator)
_NEVER_BY_TYPE = ("builtins", "collections.abc", "typing")
_UNIONS = (Union, types.UnionType)


class Unresolved:
    """An annotation that cannot be evaluated, such as one imported under TYPE_CHECKING."""

    def __init__(self, text: object, error: Exception) -> None:
        self.text: str = text if isinstance(text, str) else repr(text)
        self.reason: str = f"{type(error).__name__}: {error}"


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of parameters and of what is returned, each evaluated by itself."""
    target = _annotated(function)
    space = getattr(inspect.unwrap(target), "__globals__", None)
    found = dict(getattr(target, "__annotations__", {}))
    names = _closure(target)
    return {name: _evaluated(name, text, space, names) for name, text in found.items()}


def _annotated(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that bears the annotations of anything callable."""
    while isinstance(function, partial):
        function = function.func
    if isinstance(function, type):
        init: Callable[..., Any] = function.__init__  # type: ignore[misc]  # of this very class
        return init
    if inspect.isroutine(function):
        return function
    return type(function).__call__


def _closure(function: Callable[..., Any]) -> dict[str, Any]:
    inner = inspect.unwrap(function)
    names = getattr(getattr(inner, "__code__", None), "co_freevars", ())
    cells = getattr(inner, "__closure__", None) or ()
    pairs = zip(names, cells, strict=False)
    found: dict[str, Any] = {name: cell.cell_contents for name, cell in pairs if _is_filled(cell)}
    owner = getattr(function, "__self__", None)  # a class may name itself in its methods
    return found | {owner.__name__: owner} if isinstance(owner, type) else found


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - whether it can be read is what is asked
    except ValueError:
        return False
    return True


def _evaluated(name: str, text: Any, space: Any, names: Mapping[str, Any]) -> Any:
    bearer = SimpleNamespace(__annotations__={name: text})
    try:
        return typing.get_type_hints(bearer, space, dict(names), include_extras=True)[name]
    except Exception as error:  # anything may stand in an annotation
        return Unresolved(text, error)


def bare_type(annotation: Any) -> Any:
    """An annotation without its `Annotated` metadata."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def yielded_type(annotation: Any) -> Any:
    """What a generator function annotated like this yields: `AsyncIterator[T]`, or T itself."""
    annotation = bare_type(annotation)
    if get_origin(annotation) in _STREAMS:
        return bare_type((*get_args(annotation), UNKNOWN)[0])
    return UNKNOWN if annotation in _STREAMS else annotation


def awaited_type(annotation: Any) -> Any | None:
    """T of `Awaitable[T]`; None where it is none."""
    if get_origin(annotation) is Awaitable or annotation is Awaitable:
        return bare_type((*get_args(annotation), UNKNOWN)[0])
    return None


def is_asked_by_type(annotation: Any) -> bool:
    """Whether a parameter annotated like this is looked up by type: no builtin, no mere shape."""
    if get_origin(annotation) in _UNIONS:
        return any(is_asked_by_type(each) for each in get_args(annotation))
    kind = get_origin(annotation) or annotation
    if isinstance(kind, NewType):
        return True
    return isinstance(kind, type) and kind.__module__ not in _NEVER_BY_TYPE


def bases_of(provided: Any) -> Iterator[Any]:
    """Every type that a value of this type serves as, itself first; for an index."""
    kind = get_origin(provided) or provided
    yield kind
    if isinstance(kind, NewType):
        yield from bases_of(kind.__supertype__)
    elif isinstance(kind, type):
        yield from kind.__mro__[1:-1]


def keys_of(wanted: Any) -> Iterator[Any]:
    """What to look up in an index by `bases_of`: the class, or that of each member of a union."""
    for each in get_args(wanted) if get_origin(wanted) in _UNIONS else (wanted,):
        yield get_origin(each) or each


def serves(provided: Any, wanted: Any) -> bool:
    """Whether a value of type `provided` is known to be one of type `wanted`."""
    if provided is UNKNOWN:
        return False
    if provided == wanted:
        return True
    if get_origin(wanted) in _UNIONS:
        return any(serves(provided, each) for each in get_args(wanted))
    if isinstance(provided, NewType):
        return serves(provided.__supertype__, wanted)
    return _is_subtype(provided, wanted)


def _is_subtype(provided: Any, wanted: Any) -> bool:
    arguments = get_args(wanted)
    if not _is_subclass(get_origin(provided) or provided, get_origin(wanted) or wanted):
        return False
    if not arguments or all(isinstance(each, TypeVar) for each in arguments):
        return True
    return any(each == wanted for each in _generic_bases(get_origin(provided) or provided))


def _generic_bases(kind: Any) -> Iterator[Any]:
    for each in getattr(kind, "__mro__", ()):
        yield from vars(each).get("__orig_bases__", ())


def _is_subclass(kind: Any, base: Any) -> bool:
    try:
        return issubclass(kind, base)
    except TypeError:  # no classes, or a protocol that cannot be asked
        return False


def contradict(provided: Any, wanted: Any) -> bool:
    """Whether no value of type `provided` can be of type `wanted`; where it is unclear, it can."""
    if get_origin(wanted) in _UNIONS:
        return all(contradict(provided, each) for each in get_args(wanted))
    if get_origin(provided) in _UNIONS:
        return all(contradict(each, wanted) for each in get_args(provided))
    one, other = _plain_class(provided), _plain_class(wanted)
    if one is None or other is None or _is_protocol(one) or _is_protocol(other):
        return False
    if one is other:
        pairs = zip(get_args(provided), get_args(wanted), strict=False)
        return any(contradict(*pair) for pair in pairs)
    return not (_is_subclass(one, other) or _is_subclass(other, one) or _promotes(one, other))


def _plain_class(annotation: Any) -> type | None:
    if isinstance(annotation, NewType):
        return _plain_class(annotation.__supertype__)
    kind = get_origin(annotation) or annotation
    if kind is None:
        return type(None)
    return kind if isinstance(kind, type) and kind is not Any else None


def _is_protocol(kind: type) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def _promotes(one: type, other: type) -> bool:
    """PEP 484: an int serves as a float, both as a complex."""
    tower = [int, float, complex]
    return one in tower and other in tower and tower.index(one) < tower.index(other)


def type_name(annotation: Any) -> str:
    """How a message names a type."""
    if isinstance(annotation, Unresolved):
        return annotation.text
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__qualname__.rpartition("<locals>.")[2]
    return str(annotation).removeprefix("typing.")
