"""What the kit has to know of a backend before it can hold it to anything."""

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from grelmicro._kinds import KINDS
from grelmicro.providers import Provider

__all__ = ["Capability", "Subject", "turn"]

turn: ContextVar[str] = ContextVar("turn", default="")
"""What tells the spaces of one check from those of all others; each check sets one."""


class Capability(StrEnum):
    """What a clause may need that not every backend offers; most are found by their method."""

    GET_MANY = "get_many"
    SET_MANY = "set_many"
    DELETE_MANY = "delete_many"
    GET_WITH_TTL = "get_with_ttl"
    TOUCH = "touch"
    GET_NOWAIT = "get_nowait"
    WAIT = "wait"
    HAND_OVER = "hand_over"
    CLEAR_PREFIX = "clear(prefix=)"
    """`clear` takes the beginning of the keys to remove."""
    PING = "ping"
    """The provider has a `ping` of its own."""
    SPACES = "spaces"
    """The subject makes adapters that keep to different parts of one backend."""
    CREDENTIALS = "credentials"
    """The subject makes a provider with a password that it is told."""
    FAULTS = "faults"
    """Its server can be reached through a proxy, which makes a network misbehave."""
    PROCESSES = "processes"
    """Other processes can make an equal subject, whose backend is the same."""


@dataclass(frozen=True)
class Subject:
    """A backend under test: how to get at it.

    Args:
        name: What reports call it.
        provider: Makes a provider, not opened and without I/O; an equal one each time.
        options: Makes the keywords of a provider's factory, from the component kind and the name
            of a space (small letters, digits and `_`, up to 20), so that adapters of different
            spaces share nothing, and those of a name that was never used begin empty. Without it
            the factory is called bare, and has to make an empty backend with each new provider;
            what needs two spaces is not offered.
        guarded: Makes a provider, never opened, whose password is the argument.
        endpoint: The URL of its server, with host and port, if it has one.
        at: Makes a provider of a URL that reaches the same server: the endpoint's, through a proxy.
            It may be less patient than others are, which saves the kit's time.
        again: Makes an equal subject, in another process too: so it has to be one that `pickle`
            takes, such as a `functools.partial` of a function in a module.
        declares: What cannot be found by looking, and is promised all the same.
        waived: The ids of clauses that are known to be broken, each with the reason. One that is
            kept fails: the waiver has to go.
        advance: Lets the backend's time pass, for one whose clock stands still otherwise.
        level: The version of the contract that it claims to keep; clauses since then are not run.

    Raises:
        ValueError: A waiver has no reason.
    """

    name: str
    provider: Callable[[], Provider]
    options: Callable[[str, str], Mapping[str, Any]] | None = None
    guarded: Callable[[str], Provider] | None = None
    endpoint: str = ""
    at: Callable[[str], Provider] | None = None
    again: "Callable[[], Subject] | None" = None
    declares: frozenset[Capability] = frozenset()
    waived: Mapping[str, str] = field(default_factory=dict)
    advance: Callable[[float], None] | None = None
    level: str = "1.0"

    def __post_init__(self) -> None:
        for clause, reason in self.waived.items():
            if not reason.strip():
                raise ValueError(f"waived: {clause} is waived without a reason")

    def adapter(self, kind: str, provider: Provider, space: str = "one") -> Any:
        """Make the provider's adapter of a kind, not entered.

        Raises:
            NotImplementedError: The provider has none.
        """
        options = self.options(kind, f"{space}{turn.get()}") if self.options else {}
        return getattr(provider, KINDS[kind].factory)(**options)

    @asynccontextmanager
    async def open(self, kind: str, url: str = "") -> AsyncGenerator[Any]:
        """Open a provider, and hand out itself (`provider`) or its entered adapter of a kind.

        Args:
            kind: `provider`, or a component kind.
            url: Where the server is reached, if not at the endpoint.
        """
        provider = self.at(url) if url and self.at else self.provider()
        async with provider:
            if kind == "provider":
                yield provider
            else:
                adapter = self.adapter(kind, provider)
                async with adapter:
                    yield adapter

    def supports(self, kind: str) -> bool:
        """Whether there is a backend of this kind to hold to anything; every one is a provider."""
        return kind == "provider" or kind in self.provider().supports

    def offers(self, kind: str, capability: Capability) -> bool:
        """Whether the backend of a kind has what a clause may need."""
        if capability in self.declares:
            return True
        match capability:
            case Capability.SPACES:
                return self.options is not None
            case Capability.CREDENTIALS:
                return self.guarded is not None
            case Capability.FAULTS:
                return bool(self.endpoint) and self.at is not None
            case Capability.PROCESSES:
                return self.again is not None
            case Capability.PING:
                return type(self.provider()).ping is not Provider.ping
        adapter = self.adapter(kind, self.provider())
        if capability is Capability.CLEAR_PREFIX:
            parameters = inspect.signature(adapter.clear).parameters
            return "prefix" in parameters or any(
                p.kind is p.VAR_KEYWORD for p in parameters.values()
            )
        return callable(getattr(adapter, capability, None))
