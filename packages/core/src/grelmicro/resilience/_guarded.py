"""The circuit breaker as a decorator."""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grelmicro.resilience._circuit_breaker import CircuitBreaker

__all__ = ["guarded"]


def guarded(breaker: "CircuitBreaker", function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that each call goes through a breaker.

    Raises:
        TypeError: It is no function, or a generator.
    """
    is_async = _is_async(function)

    async def guarded_async(*args: Any, **kwargs: Any) -> Any:
        async with breaker:
            return await function(*args, **kwargs)

    def guarded_sync(*args: Any, **kwargs: Any) -> Any:
        with breaker.from_thread:
            return function(*args, **kwargs)

    return functools.update_wrapper(guarded_async if is_async else guarded_sync, function)


def _is_async(function: object) -> bool:
    if isinstance(function, type | staticmethod | classmethod) or not callable(function):
        raise TypeError("breaker: decorate a function itself, below @staticmethod or @classmethod")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"breaker: {function!r} is a generator, which runs after its call")
    is_async = inspect.iscoroutinefunction
    return is_async(function) or is_async(getattr(function, "__call__", None))  # noqa: B004
