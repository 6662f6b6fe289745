"""What the kit has to know of a backend before it can hold it to anything."""

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from grelmicro._kinds import KINDS
from grelmicro.providers import Provider

__all__ = ["Capability", "Subject"]


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


@dataclass(frozen=True)
class Subject:
    """A backend under test: how to get at it.

    Args:
        name: What reports call it.
        provider: Makes a provider, not opened and without I/O; an equal one each time.
        options: Makes the keywords of a provider's factory, from the component kind and the name
            of a space, so that adapters of different spaces share nothing and begin empty. Without
            it the factory is called bare, and what needs two spaces is not offered.
        guarded: Makes a provider, never opened, whose password is the argument.
    """

    name: str
    provider: Callable[[], Provider]
    options: Callable[[str, str], Mapping[str, Any]] | None = None
    guarded: Callable[[str], Provider] | None = None

    def adapter(self, kind: str, provider: Provider, space: str = "one") -> Any:
        """Make the provider's adapter of a kind, not entered.

        Raises:
            NotImplementedError: The provider has none.
        """
        options = self.options(kind, space) if self.options else {}
        return getattr(provider, KINDS[kind].factory)(**options)

    @asynccontextmanager
    async def open(self, kind: str) -> AsyncGenerator[Any]:
        """Open a provider, and hand out itself (`provider`) or its entered adapter of a kind."""
        provider = self.provider()
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
        match capability:
            case Capability.SPACES:
                return self.options is not None
            case Capability.CREDENTIALS:
                return self.guarded is not None
            case Capability.PING:
                return type(self.provider()).ping is not Provider.ping
        adapter = self.adapter(kind, self.provider())
        if capability is Capability.CLEAR_PREFIX:
            parameters = inspect.signature(adapter.clear).parameters
            return "prefix" in parameters or any(
                p.kind is p.VAR_KEYWORD for p in parameters.values()
            )
        return callable(getattr(adapter, capability, None))
