"""From the arguments of a call to a key that is the same in every process.

Values are written out in full, never hashed by Python and never by their address, and the writing
can be read only one way. Equal numbers are written alike (`1`, `1.0`, `True`), as they are one key
of a dict, unless the cache is `typed`.
"""

import dataclasses
import enum
import functools
import hashlib
import inspect
import math
import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from grelmicro.cache._names import MAX_KEY

__all__ = ["KeyMaker", "default_key", "write"]

KeyMaker = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], str]

_LONGEST_WRITING = 256
"""Characters of arguments that a key shows; longer ones are shown as their digest."""

_MEMO_SIZE = 1024

_LARGEST_IN_MEMO = 1024
"""Bytes of an argument up to which a memo keeps it alive."""

_HUGE = 1 << 1024

_LONGEST_DECIMAL = 300
"""Digits before the point up to which a Decimal is compared with integers and floats."""

_SIMPLE: frozenset[type] = frozenset({str, int, float, bool, bytes, type(None)})


def default_key(function: Callable[..., Any], *, typed: bool) -> KeyMaker:
    """Make the key maker for `function`: its module, its name, and its bound arguments.

    Raises:
        TypeError: The function has no name that other processes would know it by.
    """
    origin = _origin(function)
    signature = inspect.signature(function)
    memo = _Memo()
    of_one = memo.of_one

    def make(_: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        try:
            if not kwargs:
                (value,) = args
                return of_one[type(value)][value]
        except (KeyError, TypeError, ValueError):
            pass
        key = memo.find(args, kwargs)
        if key is None:
            key = _written_call(origin, signature, args, kwargs, typed=typed)
            memo.remember(args, kwargs, key)
        return key

    return make


def write(value: object, *, typed: bool = False) -> str:
    """Write out one value.

    Raises:
        TypeError: It is of a type that has no writing, or holds itself.
    """
    try:
        return _write(value, typed)
    except RecursionError:
        raise TypeError("it holds itself, or is nested too deeply") from None


def _origin(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None)
    if name is None or "<lambda>" in name:
        raise TypeError(f"{function!r} has no name to make keys from: pass key= or key_maker=")
    return f"{function.__module__}.{name}"


class _Memo:
    """Keys of calls with simple arguments, bounded.

    The types belong to what is looked up: equal arguments of other types must not find a key.
    """

    def __init__(self) -> None:
        self.of_one: dict[type, dict[Any, str]] = {kind: {} for kind in _SIMPLE}
        """For calls with one positional argument: by its type, then by its value."""
        self._of_many: dict[tuple[Any, ...], str] = {}

    def find(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """The key of an equal call with arguments of the same types."""
        try:
            return self._of_many.get(_raw(args, kwargs))
        except TypeError:  # unhashable
            return None

    def remember(self, args: tuple[Any, ...], kwargs: dict[str, Any], key: str) -> None:
        """Keep the key of a call, if its arguments are simple."""
        if not all(map(_is_small, (*args, *kwargs.values()))):
            return
        if len(args) == 1 and not kwargs:
            _put(self.of_one[type(args[0])], args[0], key)
        else:
            _put(self._of_many, _raw(args, kwargs), key)


def _is_small(value: object) -> bool:
    return type(value) in _SIMPLE and sys.getsizeof(value) <= _LARGEST_IN_MEMO


def _raw(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    return (*args, *map(type, args), *kwargs.items(), *map(type, kwargs.values()))


def _put(memo: dict[Any, str], raw: Any, key: str) -> None:
    if len(memo) >= _MEMO_SIZE:
        memo.clear()
    memo[raw] = key


def _written_call(
    origin: str,
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    typed: bool,
) -> str:
    bound = signature.bind(*args, **kwargs)
    passed = set(bound.arguments)
    bound.apply_defaults()
    parts = []
    for name, value in bound.arguments.items():
        try:
            parts.append(f"{name}={write(value, typed=typed)}")
        except TypeError as error:
            if name in passed:
                raise TypeError(
                    f"{origin}: parameter {name!r} cannot make a key: {error}. "
                    "Pass key=, as in key='user:{id}', or key_maker="
                ) from None
    return _shortened(origin, ",".join(parts))


def _shortened(origin: str, arguments: str) -> str:
    key = f"{origin}({arguments})"
    if len(arguments) <= _LONGEST_WRITING and len(key) <= MAX_KEY:
        return key
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=20)
    return f"{origin[: MAX_KEY // 2]}({digest.hexdigest()})"


def _write(value: Any, typed: bool) -> str:
    kind = type(value)
    if isinstance(value, enum.Enum):
        return f"{_class_name(kind)}.{value.name or write(value.value, typed=True)}"
    writing = _write_scalar(value) if not typed else _write_typed_scalar(value)
    if writing is not None:
        return writing
    return _write_collection(value, functools.partial(_write, typed=typed))


def _write_scalar(value: Any) -> str | None:
    match value:
        case None:
            return "None"
        case str():
            return ascii(str.__str__(value))
        case int():
            return _write_int(value)
        case float() | Decimal():
            return _write_number(value)
        case bytes() | bytearray():
            return repr(bytes(value))
        case datetime() | date() | time():
            return f"{_temporal(value)}({value.isoformat()})"
        case timedelta():
            return f"timedelta({value // timedelta(microseconds=1)})"
        case UUID():
            return f"UUID({value})"
    return None


def _write_typed_scalar(value: Any) -> str | None:
    kind = type(value)
    if isinstance(value, bool | Decimal):
        return f"{kind.__name__}({value})"
    if kind is float:
        return repr(value + 0.0)  # -0.0 equals 0.0, and is written like it
    writing = _write_scalar(value)
    if writing is None or kind.__module__ in ("builtins", "datetime", "uuid"):
        return writing
    return f"{_class_name(kind)}({writing})"


def _write_int(value: int) -> str:
    """Write an integer: in decimal, unless Python would refuse so many digits."""
    return int.__repr__(value) if -_HUGE < value < _HUGE else hex(value)


def _write_number(value: float | Decimal) -> str:
    """Write a number so that equal ones look alike, whatever their type."""
    if isinstance(value, Decimal):
        if not value.is_finite() or (value and value.adjusted() > _LONGEST_DECIMAL):
            return _write_decimal(value)
    elif not math.isfinite(value):
        return repr(value)
    if value == int(value):
        return _write_int(int(value))
    return repr(float(value)) if value == float(value) else _write_decimal(Decimal(value))


def _write_decimal(value: Decimal) -> str:
    sign, digits, exponent = value.as_tuple()
    shown = "".join(map(str, digits))
    if not isinstance(exponent, int):  # of a NaN, every digit counts
        return f"Decimal({sign},{shown},{exponent})"
    bare = shown.rstrip("0")
    return f"Decimal({sign},{bare},{exponent + len(shown) - len(bare)})"


def _temporal(value: object) -> str:
    kinds = (datetime, date, time)
    return next(kind.__name__ for kind in kinds if isinstance(value, kind))


def _write_collection(value: Any, write: Callable[[Any], str]) -> str:
    match value:
        case tuple():
            return f"({','.join(map(write, value))},)"
        case list():
            return f"[{','.join(map(write, value))}]"
        case set() | frozenset():
            return f"set{{{','.join(sorted(map(write, value)))}}}"
        case dict():
            return _write_items(value.items(), write)
    fields = _fields(value)
    if fields is None:
        raise TypeError(f"{type(value).__name__} has no writing that is the same in every process")
    return f"{_class_name(type(value))}{_write_items(fields.items(), write)}"


def _write_items(items: Any, write: Callable[[Any], str]) -> str:
    return f"{{{','.join(sorted(f'{write(name)}:{write(item)}' for name, item in items))}}}"


def _fields(value: Any) -> dict[str, Any] | None:
    """The fields of a dataclass or of a pydantic model; None for anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
    pydantic = sys.modules.get("pydantic")  # whoever passes a model has imported it
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        names = type(value).model_fields  # a cached property stands in __dict__ too
        fields = {name: item for name, item in value.__dict__.items() if name in names}
        return {**fields, **(value.__pydantic_extra__ or {})}
    return None


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
