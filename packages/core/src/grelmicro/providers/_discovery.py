"""Finding providers by name or by URL, through entry points."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from grelmicro.errors import DependencyNotFoundError
from grelmicro.providers._provider import Provider

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

__all__ = ["autodiscover", "available", "from_url", "load"]

_PROVIDERS = "grelmicro.providers"
_SCHEMES = "grelmicro.schemes"

# This project's own distributions, by what they serve. It words the advice of an error, and nothing
# else: to advise a name that nobody has taken would invite somebody to take it.
_OURS = {
    "redis": "grelmicro-redis",
    "rediss": "grelmicro-redis",
    "unix": "grelmicro-redis",
    "postgres": "grelmicro-postgres",
    "postgresql": "grelmicro-postgres",
}


def available() -> tuple[str, ...]:
    """The names of the providers that are installed, in alphabetical order; none is imported."""
    return tuple(sorted(_entry_points(_PROVIDERS).names))


def load(name: str) -> type[Provider]:
    """Import the provider class called `name`.

    Raises:
        DependencyNotFoundError: No such provider is installed, or what it needs is missing.
    """
    found = _entry_points(_PROVIDERS).select(name=name)
    if not found:
        raise DependencyNotFoundError(
            f"no provider called {name!r} is installed (installed: {', '.join(available())}): "
            f"{_advice(name)}"
        )
    return _loaded(next(iter(found)))


def from_url(url: str) -> Provider:
    """Make the provider that serves the scheme of `url`; a `+driver` suffix of it is dropped.

    No I/O happens here: the provider connects when it is opened.

    Raises:
        ValueError: `url` has no scheme, or the provider refuses it.
        DependencyNotFoundError: No installed provider serves the scheme.
    """
    scheme = _scheme(url)
    for name in (scheme, scheme.partition("+")[0]):
        if found := _entry_points(_SCHEMES).select(name=name):
            # By convention, a provider's first parameter is its URL.
            return cast("Callable[[str], Provider]", _loaded(next(iter(found))))(url)
    raise DependencyNotFoundError(
        f"no installed provider serves {scheme}:// (served: {', '.join(_schemes())}): "
        f"{_advice(scheme.partition('+')[0])}"
    )


def autodiscover() -> Provider:
    """Make the provider that the environment's `GRELMICRO_URL` names; `memory://` by default.

    Raises:
        ValueError: The URL has no scheme, or the provider refuses it.
        DependencyNotFoundError: No installed provider serves the scheme.
    """
    url = os.environ.get("GRELMICRO_URL") or "memory://"
    try:
        return from_url(url)
    except (ValueError, DependencyNotFoundError) as error:
        error.add_note("the URL came from the environment variable GRELMICRO_URL")
        raise


def _entry_points(group: str) -> "EntryPoints":
    from importlib.metadata import entry_points  # tens of milliseconds that `import` should not pay

    return entry_points(group=group)


def _advice(name: str) -> str:
    if name in _OURS:
        return f"pip install {_OURS[name]}"
    return "install the distribution that declares it as an entry point"


def _scheme(url: object) -> str:
    scheme, separator, _ = url.partition("://") if isinstance(url, str) else ("", "", "")
    if not (scheme and separator):
        raise ValueError("url: expected scheme://..., such as redis://localhost:6379/0")
    return scheme.lower()


def _schemes() -> list[str]:
    return sorted(_entry_points(_SCHEMES).names)


def _loaded(entry_point: "EntryPoint") -> type[Provider]:
    try:
        provider: type[Provider] = entry_point.load()
    except ImportError as error:
        name = entry_point.name
        distribution = entry_point.dist.name if entry_point.dist else f"grelmicro-{name}"
        raise DependencyNotFoundError(
            f"the provider {name!r} cannot be imported ({error}): pip install {distribution}"
        ) from error
    return provider
