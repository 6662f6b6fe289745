"""The `cached` decorator."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from time import monotonic
from typing import Any, Literal, ParamSpec, TypeAlias, TypedDict, TypeVar, cast

from grelmicro.cache._arguments import KeyMaker, default_key
from grelmicro.cache._loads import Load
from grelmicro.cache._names import MARK, unnamed
from grelmicro.cache._reader import ASK, MISS, View
from grelmicro.cache._recipe import Call, Found, Policy, Recipe
from grelmicro.cache._templates import template_key
from grelmicro.cache.ttl import TTLCache
from grelmicro.errors import CacheSettingsValidationError

__all__ = ["CachedOptions", "cached"]

P = ParamSpec("P")
R = TypeVar("R")

LockType: TypeAlias = (
    bool
    | Literal["distributed"]
    | AbstractContextManager[Any]
    | AbstractAsyncContextManager[Any]
    | None
)


class CachedOptions(TypedDict, total=False):
    """The options of `cached`."""

    key_maker: KeyMaker | None
    key: str | None
    skip: Callable[[Any], bool] | None
    typed: bool
    lock: LockType
    jitter: float
    early: bool | float
    stale_ttl: float
    tags: str | Sequence[str]


def cached(
    cache: TTLCache[Any],
    *,
    key_maker: KeyMaker | None = None,
    key: str | None = None,
    skip: Callable[[Any], bool] | None = None,
    typed: bool = False,
    lock: LockType = None,
    jitter: float = 0.0,
    early: bool | float = False,
    stale_ttl: float = 0.0,
    tags: str | Sequence[str] = (),
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Cache the results of a sync or async function, methods included.

    While the backend fails, the function is called without it, and the log says so once. A
    synchronous function needs the backend to be open; on the thread of a running loop only a
    backend in this process can serve it.

    The decorated function has `cache_info()` and `await cache_clear()`, which are the cache's own.

    Args:
        cache: Where results are kept.
        key_maker: Makes the key from `(function, args, kwargs)`. By default it is made of the
            function's module and name and its bound arguments, the same in every process; two
            closures of one function are told apart by caches of different names only.
        key: A template for the key instead: `user:{id}`.
        skip: Results for which it is true are returned and not kept.
        typed: Keep equal arguments of different types apart: `3`, `3.0`, `True`.
        lock: `True`: of all callers in this process that miss a key, one runs the function and the
            others get what it got. `"distributed"`: of all callers in the fleet; it takes the locks
            of the open app, and a process that dies while it loads holds the others up for 10
            seconds. A context manager (an async one for an async function): one lock for all keys.
        jitter: The share of the time to live, from 0 to below 1, of which a random part is taken
            off, so that entries stored together do not expire together.
        early: Refresh popular entries ahead of their end, with a chance that grows towards it and
            with the cost of the function (XFetch); a number above 1 makes it likelier.
        stale_ttl: Seconds after its end that a value is still served if the function fails.
        tags: Templates of names under which `cache.invalidate_tags` finds the entries.

    Raises:
        CacheSettingsValidationError: An option is out of range, or two exclude each other.
        TypeError: The function or the lock is of a kind that cannot be used; or, at a call, an
            argument cannot be made a part of a key.
    """
    if key is not None and key_maker is not None:
        raise CacheSettingsValidationError("key: give a template or a key_maker, not both")

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        is_async = _is_async(function)
        _check_lock(lock, is_async)
        policy = Policy(
            skip,
            _number("jitter", jitter, below=1),
            _number("early", early),
            _number("stale_ttl", stale_ttl),
            tuple(template_key(function, tag, what="tags") for tag in _as_tuple(tags)),
        )
        recipe = Recipe(cache, function, _key_maker(function, key, key_maker, typed), policy)
        wrapper = _wrapper(recipe, lock, is_async)
        functools.update_wrapper(wrapper, function)
        helpers = cast("Any", wrapper)
        helpers.cache_info, helpers.cache_clear = cache.cache_info, cache.clear
        return wrapper

    return decorate


def _wrapper(recipe: Recipe, lock: Any, is_async: bool) -> Callable[..., Any]:
    if not is_async:
        return _sync_wrapper(recipe, lock)
    view = recipe.cache._view
    if view is not None and recipe.policy.is_plain and recipe.cache._is_bare:
        return _bare_wrapper(recipe, lock, view)
    return _async_wrapper(recipe, lock)


def _async_wrapper(recipe: Recipe, lock: Any) -> Callable[..., Any]:
    make_key, function = recipe.make_key, recipe.function
    read = _reader(recipe)
    make = _Tasks(recipe, lock).make

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        key = make_key(function, args, kwargs)
        value = read(key)
        if value is MISS or value is ASK:
            return await make(Call(key, args, kwargs), value)
        return value

    return wrapper


def _bare_wrapper(recipe: Recipe, lock: Any, view: View) -> Callable[..., Any]:
    """The same for a cache that `is_bare`, with the reader written out: a call less on a hit."""
    make_key, function = recipe.make_key, recipe.function
    entries, cls, own_get, patched = view
    prefix, counters, read = recipe.cache._prefix, recipe.cache._counters, recipe.cache._read
    make = _Tasks(recipe, lock).make

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        key = make_key(function, args, kwargs)
        if cls.get is own_get and "get" not in patched:
            try:
                full = prefix + key if prefix else key if key < MARK else unnamed(key)
                data, deadline = entries[full]
            except (KeyError, TypeError):
                pass
            else:
                if deadline > monotonic() and counters.decode is None:
                    counters.hits += 1
                    return data
        value = read(key)
        if value is MISS or value is ASK:
            return await make(Call(key, args, kwargs), value)
        return value

    return wrapper


def _sync_wrapper(recipe: Recipe, lock: Any) -> Callable[..., Any]:
    make_key, function = recipe.make_key, recipe.function
    read = _reader(recipe)
    check_open = recipe.cache._backing.check_open
    make = _Threads(recipe, lock).make

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        check_open()
        key = make_key(function, args, kwargs)
        value = read(key)
        if value is MISS or value is ASK:
            return make(Call(key, args, kwargs), value)
        return value

    return wrapper


class _Tasks:
    """Makes what an async function's cache did not have at once."""

    def __init__(self, recipe: Recipe, lock: Any) -> None:
        self._recipe = recipe
        self._cache = recipe.cache
        self._lock = lock
        self._lead = self._lead_here if lock != "distributed" else self._lead_alone
        self._fleet = recipe.fleet

    async def make(self, call: Call, answer: object) -> Any:
        """Ask the backend, if that was not done; else, or if it has nothing, call the function."""
        found = await self._recipe.find(call) if answer is ASK else None
        if found is not None and found.fresh:
            return found.value
        if self._lock is True or self._lock == "distributed":
            full = self._cache._full(call.key)
            return await self._cache._flights.fly(full, lambda load: self._lead(load, call, found))
        if not self._lock:
            return await self._noted(self._load, call, found)
        async with self._lock:
            return await self._noted(self._lead, call, found)

    async def _noted(self, make: Callable[..., Any], call: Call, found: Found | None) -> Any:
        load = self._cache._loads.begin(self._cache._full(call.key))
        try:
            return await make(load, call, found)
        finally:
            self._cache._loads.end(load)

    async def _lead_alone(self, load: Load, call: Call, found: Found | None) -> Any:
        if self._recipe.is_without_backend:
            return await self._load(load, call, found)
        async with self._fleet.alone(load.key):
            return await self._lead_here(load, call, found)

    async def _lead_here(self, load: Load, call: Call, found: Found | None) -> Any:
        again = await self._recipe.find_again(call, found)
        return again.value if again is not None else await self._load(load, call, found)

    async def _load(self, load: Load, call: Call, found: Found | None) -> Any:
        timer = await self._recipe.begin(call)
        try:
            value = await self._recipe.function(*call.args, **call.kwargs)
        except Exception as error:
            return self._recipe.instead(found, error)
        await self._recipe.keep(load, value, timer)
        return value


class _Threads:
    """Makes what a sync function's cache did not have at once; `_Tasks` for threads.

    The function runs in the caller's thread; what has to be awaited goes through the cache's loop.
    """

    def __init__(self, recipe: Recipe, lock: Any) -> None:
        self._recipe = recipe
        self._cache = recipe.cache
        self._run = recipe.cache._backing.run
        self._lock = lock
        self._lead = self._lead_here if lock != "distributed" else self._lead_alone
        self._fleet = recipe.fleet

    def make(self, call: Call, answer: object) -> Any:
        """Ask the backend, if that was not done; else, or if it has nothing, call the function."""
        found = self._run(self._recipe.find(call)) if answer is ASK else None
        if found is not None and found.fresh:
            return found.value
        if self._lock is True or self._lock == "distributed":
            full, flights = self._cache._full(call.key), self._cache._thread_flights
            return flights.fly(full, lambda load: self._lead(load, call, found))
        if not self._lock:
            return self._noted(self._load, call, found)
        with self._lock:
            return self._noted(self._lead, call, found)

    def _noted(self, make: Callable[..., Any], call: Call, found: Found | None) -> Any:
        load = self._cache._loads.begin(self._cache._full(call.key))
        try:
            return make(load, call, found)
        finally:
            self._cache._loads.end(load)

    def _lead_alone(self, load: Load, call: Call, found: Found | None) -> Any:
        if self._recipe.is_without_backend:
            return self._load(load, call, found)
        with self._fleet.alone_in_thread(load.key):
            return self._lead_here(load, call, found)

    def _lead_here(self, load: Load, call: Call, found: Found | None) -> Any:
        again = self._run(self._recipe.find_again(call, found))
        return again.value if again is not None else self._load(load, call, found)

    def _load(self, load: Load, call: Call, found: Found | None) -> Any:
        timer = self._run(self._recipe.begin(call))
        try:
            value = self._recipe.function(*call.args, **call.kwargs)
        except Exception as error:
            return self._recipe.instead(found, error)
        self._run(self._recipe.keep(load, value, timer))
        return value


def _reader(recipe: Recipe) -> Callable[[str], Any]:
    """How the wrapper looks first: at once where every entry is a hit, else not at all."""
    return recipe.cache._read if recipe.policy.is_plain else lambda _: ASK


def _key_maker(
    function: Callable[..., Any], key: str | None, key_maker: KeyMaker | None, typed: bool
) -> KeyMaker:
    if key is not None:
        return template_key(function, key)
    return key_maker or default_key(function, typed=typed)


def _is_async(function: Callable[..., Any]) -> bool:
    if isinstance(function, staticmethod | classmethod) or not callable(function):
        raise TypeError("cached: decorate the function itself, below @staticmethod or @classmethod")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"cached: {function!r} is a generator, whose items are used up")
    is_async = inspect.iscoroutinefunction
    return is_async(function) or is_async(getattr(function, "__call__", None))  # noqa: B004


def _check_lock(lock: LockType, is_async: bool) -> None:
    if lock is None or isinstance(lock, bool) or lock == "distributed":
        return
    if not hasattr(lock, "__aenter__" if is_async else "__enter__"):
        kind, example = ("an async", "asyncio.Lock()") if is_async else ("a", "threading.Lock()")
        raise TypeError(f"lock: this function needs {kind} context manager, such as {example}")


def _number(name: str, value: object, *, below: float = math.inf) -> float:
    if not isinstance(value, int | float) or not 0 <= value < below:
        limit = "" if below == math.inf else f" and below {below:g}"
        raise CacheSettingsValidationError(f"{name}: expected a finite number from 0{limit}")
    return float(value)


def _as_tuple(tags: str | Sequence[str]) -> tuple[str, ...]:
    return (tags,) if isinstance(tags, str) else tuple(tags)
