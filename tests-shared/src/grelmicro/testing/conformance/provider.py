"""What every provider promises."""

import re
from secrets import token_hex
from typing import Any

from grelmicro._kinds import KINDS
from grelmicro.providers import Provider
from grelmicro.testing.conformance._kit import clause, promise, same
from grelmicro.testing.conformance._subject import Capability, Subject


@clause("provider.short_name", closed=True)
async def short_name(subject: Subject) -> None:
    """A provider class has a short name of small letters, digits, `_` and `-`.

    Messages, the command line and entry points call it so. Set `short_name` on the class.
    """
    cls = type(subject.provider())
    promise("short_name" in _own(cls), f"{cls.__name__} has no short_name of its own")
    promise(
        re.fullmatch(r"[a-z][a-z0-9_-]*", cls.short_name),
        f"{cls.__name__}.short_name is {cls.short_name!r}",
    )


@clause("provider.supports.works", closed=True)
async def supports_works(subject: Subject) -> None:
    """Every kind in `supports` has a factory that makes an adapter with the contract's methods.

    The composer decides by `supports` what a provider serves. Override a factory of `Provider`
    only to return an adapter; `supports` then follows by itself.
    """
    provider = subject.provider()
    for kind in provider.supports:
        promise(kind in KINDS, f"supports names {kind!r}, which is no component kind")
        adapter = subject.adapter(kind, provider)
        promise(
            KINDS[kind].fits(adapter),
            f"{KINDS[kind].factory}() made {adapter!r}, which is no {KINDS[kind].contract_name}",
        )


@clause("provider.factory.refuses", closed=True)
async def factory_refuses(subject: Subject) -> None:
    """The factory of any other kind raises NotImplementedError that names the component.

    It is how a user learns what to do instead. Leave such a factory to `Provider`.
    """
    provider = subject.provider()
    for kind in KINDS.values():
        if kind.name in provider.supports:
            continue
        try:
            made = getattr(provider, kind.factory)()
        except NotImplementedError as error:
            promise(
                f"{kind.component_name}(" in str(error),
                f"{kind.factory}() does not name {kind.component_name}(...): {error}",
            )
        else:
            promise(False, f"{kind.factory}() made {made!r}, though supports has no {kind.name!r}")


@clause("provider.ping.seconds", needs=(Capability.PING,))
async def ping_seconds(provider: Provider) -> None:
    """`ping()` asks the backend, and returns the seconds that it took: 0 or more, and finite.

    Readiness probes and `python -m grelmicro check` show it. Measure with `perf_counter()`.
    """
    seconds: Any = await provider.ping()
    promise(
        isinstance(seconds, float) and 0 <= seconds < 60,
        f"ping() returned {seconds!r} and not the seconds that it took",
    )


@clause("provider.url.masked", needs=(Capability.CREDENTIALS,), closed=True)
async def url_masked(subject: Subject) -> None:
    """No password is in `url`, `repr()` or `str()`.

    They go to logs and error messages. Mask the credentials of whatever is shown.
    """
    secret = token_hex(8)
    assert subject.guarded is not None
    provider = subject.guarded(secret)
    for what, shown in {
        "url": provider.url,
        "repr()": repr(provider),
        "str()": f"{provider}",
    }.items():
        promise(secret not in shown, f"{what} shows the password: {shown.replace(secret, '<it>')}")


@clause("provider.life.returns_itself", closed=True)
async def returns_itself(subject: Subject) -> None:
    """`async with provider as it` gives the provider.

    Applications use what the block hands them. Return `self` from `__aenter__`.
    """
    provider = subject.provider()
    async with provider as entered:
        promise(entered is provider, f"__aenter__ returned {entered!r}")


@clause("provider.life.reopens", closed=True)
async def reopens(subject: Subject) -> None:
    """A provider that was closed can be opened again, and its adapters work then.

    Tests open an application again and again. Make connections in `__aenter__`, or on first use,
    and forget closed ones.
    """
    provider = subject.provider()
    for _ in range(2):
        async with provider:
            for kind in provider.supports:
                async with subject.adapter(kind, provider):
                    pass
            if subject.offers("provider", Capability.PING):
                await provider.ping()
    same(subject.provider().url, provider.url, "the url after closing")


def _own(cls: type) -> set[str]:
    """The names that a provider class has from its own classes, and not from `Provider`."""
    bases = cls.__mro__[: cls.__mro__.index(Provider)]
    return {name for base in bases for name in vars(base)}
