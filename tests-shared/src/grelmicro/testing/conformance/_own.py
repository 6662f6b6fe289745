"""Subjects of this project's own providers, and of any other that says nothing of itself."""

import functools
import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from grelmicro._kinds import KINDS
from grelmicro.providers import Provider, from_url, load
from grelmicro.testing.conformance._subject import Subject

__all__ = ["bare", "memory", "postgres", "redis"]

_HASTY = 2.0
"""Seconds after which a stalled server of a provider of ours has failed, in place of five."""

Options = Callable[[str, str], Mapping[str, Any]]


def memory() -> Subject:
    """The backends in this process."""
    return Subject("memory", load("memory"), options=lambda kind, space: {})


@contextmanager
def redis(url: str | None = None) -> Generator[Subject]:
    """A Redis: the one at `url`, or a throwaway one; under a prefix whose keys are removed."""
    from grelmicro.testing.servers import redis_server
    from grelmicro.testing.servers._resp import remove_keys

    with ExitStack() as stack:
        where = url or stack.enter_context(redis_server()).url
        prefix = f"conformance:{uuid4().hex}:"
        yield on_redis(where, prefix)
        if url and urlsplit(url).scheme == "redis":
            with suppress(OSError):  # it was never there, or is no more
                remove_keys(url, prefix)


def on_redis(url: str, prefix: str) -> Subject:
    """The subject of a Redis, with spaces that are prefixes."""
    return _at(
        url,
        "redis",
        lambda kind, space: {"prefix": f"{prefix}{space}:"},
        functools.partial(on_redis, url, prefix),
    )


@contextmanager
def postgres(url: str | None = None) -> Generator[Subject]:
    """A Postgres: the one at `url`, or a throwaway one; in a schema of its own."""
    from grelmicro.testing.servers import postgres_server
    from grelmicro.testing.servers._sql import run_sql

    with ExitStack() as stack:
        where = url or stack.enter_context(postgres_server()).url
        schema = f"conformance_{uuid4().hex}"
        with suppress(OSError):  # nobody answers there, as is told when it is to be opened
            run_sql(where, f"CREATE SCHEMA {schema}")
            stack.callback(run_sql, where, f"DROP SCHEMA {schema} CASCADE")
        yield on_postgres(where, schema)


def on_postgres(url: str, schema: str) -> Subject:
    """The subject of a Postgres, with spaces that are tables."""
    return _at(
        url,
        "postgres",
        lambda kind, space: {"table_name": f"{schema}.{kind}_{space}"},
        functools.partial(on_postgres, url, schema),
    )


def bare(make: Callable[[], Provider], url: str = "") -> Subject:
    """What can be known of a provider that has no subject.

    Its adapters share nothing if they take a `prefix`; what they hold may be there from before if
    they do not, and is cleared.

    Args:
        make: Makes the provider.
        url: Where its server is, if that is known.
    """
    provider, prefix = make(), f"conformance:{uuid4().hex}:"
    with_prefix = {kind for kind in provider.supports if _takes_prefix(provider, kind)}

    def options(kind: str, space: str) -> Mapping[str, Any]:
        return {"prefix": f"{prefix}{space}:"} if kind in with_prefix else {}

    apart = with_prefix and with_prefix == {*provider.supports}
    has_port = _has_port(url or provider.url)
    return Subject(
        provider.short_name,
        make,
        options=options if apart else None,
        endpoint=url if has_port else "",
        at=from_url if url and has_port else None,
    )


def _at(url: str, name: str, options: Options, again: Callable[[], Subject]) -> Subject:
    where = urlsplit(url)
    has_port = _has_port(url)
    return Subject(
        name,
        lambda: from_url(url),
        options=options,
        guarded=lambda secret: from_url(f"{where.scheme}://user:{secret}@localhost/0"),
        endpoint=url if has_port else "",
        at=functools.partial(_hasty, name) if has_port else None,
        again=again,
    )


def _hasty(name: str, url: str) -> Provider:
    """The provider of a server behind a proxy, which does not wait as long as it would by itself.

    Half of the time of a whole run would be waiting for servers that do not answer.
    """
    ours: Any = load(name)
    made: Provider = ours(url, timeout=_HASTY)
    return made


def _has_port(url: str) -> bool:
    """Whether there is one server that a proxy can be put in front of."""
    parts = urlsplit(url)
    return bool(parts.hostname and parts.port) and "+" not in parts.scheme


def _takes_prefix(provider: Provider, kind: str) -> bool:
    factory = getattr(provider, KINDS[kind].factory)
    try:
        made = type(factory())
        return "prefix" in inspect.signature(made).parameters
    except (TypeError, ValueError):
        return False
