"""The base of adapters that speak through a provider."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, Self, TypeVar

from grelmicro._threads import noted_loop
from grelmicro.providers._provider import Provider

__all__ = ["ProviderAdapter", "borrowed_provider"]

P = TypeVar("P", bound=Provider)


class ProviderAdapter(Generic[P]):
    """An adapter over a provider that it borrows, or makes for itself.

    A borrowed provider is neither opened nor closed here, and the adapter works whenever that
    provider is open. A provider of its own lives as long as the adapter's context; within an app,
    adapters that would make equal ones share the first.

    Args:
        provider: The provider to borrow, if there is one.
        make: Makes the provider to open and close with this adapter, when none is borrowed.
        url: What that one is made from, when not from the environment.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(
        self, *, provider: P | None, make: Callable[[], P], url: object | None = None
    ) -> None:
        self.provider: P = make() if provider is None else provider
        """The provider that carries this adapter's commands."""
        self._borrows = provider is not None
        self._url = url
        self._entered = 0

    @property
    def borrows(self) -> bool:
        """Whether the provider belongs to somebody else."""
        return self._borrows

    @property
    def makes_its_own(self) -> bool:
        """Whether entering this adapter would open a provider of its own."""
        return not self.borrows and not self._entered

    @property
    def sharing_key(self) -> tuple[object, ...]:
        """What must be equal for two adapters of an app to share one provider."""
        return type(self.provider), self.provider.env_prefix, str(self._url)

    @contextmanager
    def sharing(self, provider: P) -> Generator[None, None, None]:
        """Borrow `provider` for the block instead of opening one of its own."""
        own, self.provider, self._borrows = self.provider, provider, True
        try:
            yield
        finally:
            self.provider, self._borrows = own, False

    async def __aenter__(self) -> Self:
        """Open a provider of its own, and note the loop for callers in threads."""
        if self.makes_its_own:
            await self.provider.__aenter__()
        self._loop = noted_loop()
        self._entered += 1
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End what runs in the background, and close a provider of its own."""
        try:
            if self._entered == 1:
                await self.closing()
        finally:
            self._entered -= 1
            if not self._entered:
                self._loop = None
            if self.makes_its_own:
                await self.provider.__aexit__(exc_type, exc, traceback)

    async def closing(self) -> None:
        """End what runs in the background; for adapters to override.

        It is called before the last exit of a context, while the provider is open still.
        """


def borrowed_provider(source: object) -> Provider | None:
    """The provider that `source` borrows, if it is an adapter that borrows one."""
    if isinstance(source, ProviderAdapter) and source.borrows:
        provider: Provider = source.provider
        return provider
    return None
