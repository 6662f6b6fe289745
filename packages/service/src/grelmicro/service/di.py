"""Injection from the context: adapters make components of others, of keywords and of defaults.

It stands on the engine of `grelmicro.inject`. Where a parameter comes from is decided by the call's
keywords and the context of the moment; the decision is kept until the context changes.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from grelmicro.inject import DeclarationError
from grelmicro.inject.engine import Kind, adapter_of
from grelmicro.service import context
from grelmicro.service._resolving import Plan, Resolver

__all__ = ["nject", "register"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_MISSING: Any = object()


def register(adapter: F) -> F:
    """Register what makes a type: the one that a function, method, class method or class returns.

    A class method that returns its own class (`Self`, or a type variable) serves all subclasses.
    Of several adapters of a type, the first that is registered and can be used is used.

    Args:
        adapter: Sync or async. What it takes is injected.

    Returns:
        The adapter, so that it can be used as a decorator.

    Raises:
        ValueError: It does not say what it returns, or is a generator, which nobody would close.
    """
    declaration = adapter_of(adapter)
    if declaration.kind in (Kind.GENERATOR, Kind.ASYNC_GENERATOR):
        raise DeclarationError(
            f"{declaration}: a generator would never be closed: open what it yields in a plugin, "
            "with `await teardown.enter(...)`, and add it to the context"
        )
    layer = context.current().layers[0]
    layer.adapters.append(adapter)
    layer.version += 1
    return adapter


async def nject(target: type[T], /, **keywords: Any) -> T:
    """The component of a type; else, or with keywords, what an adapter makes.

    Each parameter of the adapter gets, in this order: the keyword of its name, the component of its
    type and name, the component of its type without a name, what an adapter makes of that type, its
    default. What adapters make is made anew by each call, once in it, and not added to the context.

    Args:
        target: What is asked for.
        keywords: By the names of parameters: the adapter's own, or of those that it needs.

    Raises:
        LookupError: Nothing makes it; the message says what is missing.
        TypeError: Adapters need each other, or nothing takes a keyword.
    """
    here = _nearest(context.current())
    if not keywords:
        found = here.get(target, default=_MISSING)
        if found is not _MISSING:
            return found
    version, key = here.version(), (target, *keywords)
    known = here.plans.get(key)
    if known is not None and known[0] == version:
        plan = cast("Plan", known[1])
    else:
        plan = Resolver(here, keywords).plan_of(target)
        here.plans[key] = version, plan
    made: T = await plan.run(keywords)
    return made


def _nearest(here: context.Context) -> context.Context:
    """The nearest context with something in its own layer: those inside see the same."""
    while here.outer is not None and not here.layers[0].version:
        here = here.outer
    return here
