"""The limiter as a decorator."""

import functools
import inspect
import re
import string
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from grelmicro.errors import ResilienceSettingsValidationError

if TYPE_CHECKING:
    from grelmicro.resilience._rate_limiter import RateLimiter

__all__ = ["limited"]

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


def limited(
    limiter: "RateLimiter",
    function: Callable[..., Any],
    key: str | Callable[..., str] | None,
    cost: int,
) -> Callable[..., Any]:
    """Wrap a function so that each call takes permits first, or raises.

    Raises:
        ResilienceSettingsValidationError: The template is malformed or names no parameter.
        TypeError: It is no function, or a generator.
    """
    is_async = _is_async(function)
    key_of = _key_maker(function, key)

    async def limited_async(*args: Any, **kwargs: Any) -> Any:
        await limiter.acquire_or_raise(key=key_of(*args, **kwargs), cost=cost)
        return await function(*args, **kwargs)

    def limited_sync(*args: Any, **kwargs: Any) -> Any:
        limiter.from_thread.acquire_or_raise(key=key_of(*args, **kwargs), cost=cost)
        return function(*args, **kwargs)

    return functools.update_wrapper(limited_async if is_async else limited_sync, function)


def _is_async(function: object) -> bool:
    if isinstance(function, type | staticmethod | classmethod) or not callable(function):
        raise TypeError("limiter: decorate a function itself, below @staticmethod or @classmethod")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"limiter: {function!r} is a generator, which runs after its call")
    is_async = inspect.iscoroutinefunction
    return is_async(function) or is_async(getattr(function, "__call__", None))  # noqa: B004


def _key_maker(
    function: Callable[..., Any], key: str | Callable[..., str] | None
) -> Callable[..., str]:
    if key is None:
        return lambda *args, **kwargs: "*"
    if isinstance(key, str):
        return _filled(inspect.signature(function), key)
    if not callable(key):
        raise ResilienceSettingsValidationError(
            "key: expected a template such as 'user:{user_id}', or a function of the arguments"
        )
    return key


def _filled(signature: inspect.Signature, template: str) -> Callable[..., str]:
    """Make the function that fills a template with a call's arguments, defaults included."""
    _check(signature, template)

    def key_of(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            key = template.format_map(bound.arguments)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise TypeError(f"key={template!r} cannot be filled: {error}") from None
        texts = (value for value in bound.arguments.values() if isinstance(value, str))
        if _ADDRESS.search(key) and not any(map(_ADDRESS.search, texts)):
            raise TypeError(f"key={template!r}: an argument shows its address, which is no key")
        return key

    return key_of


def _check(signature: inspect.Signature, template: str) -> None:
    try:
        fields = [part[1] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ResilienceSettingsValidationError(f"key={template!r}: {error}") from None
    for field in fields:
        name = re.split(r"[.\[]", field, maxsplit=1)[0]
        if name not in signature.parameters:
            known = ", ".join(signature.parameters) or "none"
            raise ResilienceSettingsValidationError(
                f"key={template!r}: no parameter {name!r} (there are: {known})"
            )
