"""The base of every provider."""

from types import TracebackType
from typing import Any, ClassVar, NoReturn, Self

from grelmicro._kinds import KINDS

__all__ = ["Provider"]


class Provider:
    """A connection to a backend: its URL, its native client, and the life of both.

    A subclass sets `short_name`, opens in `__aenter__`, closes in `__aexit__`, and overrides the
    factories of the kinds it serves. Everything else has a default.
    """

    short_name: ClassVar[str] = "provider"
    """What messages and the command line call it; the name of its entry point."""

    env_prefix: str = ""
    """What the environment variables it may read begin with."""

    @property
    def url(self) -> str:
        """Where it connects to, credentials masked; empty when there is no such place."""
        return ""

    @property
    def client(self) -> Any:
        """The vendor's native client.

        Raises:
            NotImplementedError: This provider has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no native client")

    @property
    def supports(self) -> tuple[str, ...]:
        """The component kinds it has adapters for."""
        return supported_kinds(type(self))

    async def __aenter__(self) -> Self:
        """Open the connection."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""

    async def ping(self) -> float:
        """Ask the backend for a sign of life; seconds that one round trip took.

        Raises:
            NotImplementedError: This provider has no way to ask.
            OutOfContextError: It is not open.
            Exception: The driver's own: nothing came of it in time.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be pinged")

    @classmethod
    def ddl(cls) -> str:
        """The statements that make its tables, for who runs them beforehand; empty without tables.

        `python -m grelmicro ddl NAME` prints them. They may be run again.
        """
        return ""

    def sync(self, **kwargs: Any) -> Any:
        """Make the synchronization adapter.

        Raises:
            NotImplementedError: This provider has none.
        """
        self._has_no("sync")

    def cache(self, **kwargs: Any) -> Any:
        """Make the cache adapter.

        Raises:
            NotImplementedError: This provider has none.
        """
        self._has_no("cache")

    def ratelimiter(self, **kwargs: Any) -> Any:
        """Make the rate limiter adapter.

        Raises:
            NotImplementedError: This provider has none.
        """
        self._has_no("ratelimiter")

    def breaker(self, **kwargs: Any) -> Any:
        """Make the circuit breaker adapter.

        Raises:
            NotImplementedError: This provider has none.
        """
        self._has_no("circuitbreaker")

    def _has_no(self, name: str) -> NoReturn:
        kind = KINDS[name]
        raise NotImplementedError(
            f"{type(self).__name__} has no {kind.name} adapter. "
            f"Pass a {kind.contract_name} instance to {kind.component_name}(...) directly."
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})" if self.url else f"{type(self).__name__}()"


def supported_kinds(provider: type[Provider]) -> tuple[str, ...]:
    """The kinds whose factory `provider` overrides, in the order of the table."""
    return tuple(
        kind.name
        for kind in KINDS.values()
        if getattr(provider, kind.factory) is not getattr(Provider, kind.factory)
    )
