"""Finding subjects: by the entry points of backends, by the name of a provider, by a URL."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from typing import Any

from grelmicro.providers import available, from_url, load
from grelmicro.testing.conformance._own import bare
from grelmicro.testing.conformance._subject import Subject

__all__ = ["GROUP", "installed", "subject_of"]

GROUP = "grelmicro.conformance"
"""Entry points: a `Subject`, or a function that makes one or a context manager that gives one.

The function may take a `url`: where the server is, or None."""


def installed() -> tuple[str, ...]:
    """The names of all backends that are here: of providers, and of subjects without one."""
    others = {each.name for each in _subjects() if _distribution(each) != "grelmicro-testing"}
    return tuple(sorted({*available(), *others}))


@contextmanager
def subject_of(name: str) -> Generator[Subject]:
    """Find the subject of a name or of a URL, whose server may be started for it.

    Raises:
        DependencyNotFoundError: Nothing of that name is installed, or what it needs is missing.
        ServerUnavailableError: It needs a server, and none can be had.
        TypeError: Its entry point is none of what one may be.
    """
    url = name if "://" in name else None
    short_name = type(from_url(url)).short_name if url else name
    found = [each for each in _subjects() if each.name == short_name]
    if found:
        with _given(found[0], url) as subject:
            yield subject
    elif url:
        yield bare(lambda: from_url(url), url)
    else:
        yield bare(load(name))


def _subjects() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


def _distribution(entry_point: EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist else ""


@contextmanager
def _given(entry_point: EntryPoint, url: str | None) -> Generator[Subject]:
    made: Any = entry_point.load()
    if callable(made):
        made = made(url=url) if "url" in signature(made).parameters else made()
    if isinstance(made, AbstractContextManager):
        with made as subject:
            yield _checked(entry_point, subject)
    else:
        yield _checked(entry_point, made)


def _checked(entry_point: EntryPoint, made: object) -> Subject:
    if not isinstance(made, Subject):
        raise TypeError(
            f"the entry point {entry_point.value!r} of {GROUP}: expected a Subject, or what makes "
            f"one, not {type(made).__name__}"
        )
    return made
