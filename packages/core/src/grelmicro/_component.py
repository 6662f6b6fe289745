"""What every component is: a backend under a kind and a name."""

from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast

from grelmicro._kinds import KINDS
from grelmicro.providers._adapter import borrowed_provider
from grelmicro.providers._provider import Provider

__all__ = ["Backend", "Component"]


class Backend(Protocol):
    """What all four contracts share: an async context manager."""

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None: ...


B = TypeVar("B", bound=Backend)


class Component(Generic[B]):
    """A backend that an app serves under a kind and a name.

    Args:
        source: A provider, whose canonical adapter of this kind is used, or an adapter.
        name: What the app knows it by; one app holds one component of each kind and name.

    Raises:
        TypeError: `source` is neither a provider nor an adapter of this kind.
        NotImplementedError: The provider has no adapter of this kind.
    """

    kind: ClassVar[str]

    def __init__(self, source: Provider | B, *, name: str = "default") -> None:
        kind = KINDS[self.kind]
        self.name: str = _checked_name(name)
        self.backend: B
        """The adapter that this component was made with."""
        if isinstance(source, Provider):
            self.backend = cast("B", getattr(source, kind.factory)())
        elif kind.fits(source):
            self.backend = source
        else:
            raise TypeError(
                f"{kind.component_name}(...) takes a Provider or a {kind.contract_name}, "
                f"not {type(source).__name__}"
            )
        self.provider: Provider | None = (
            source if isinstance(source, Provider) else borrowed_provider(source)
        )
        """The provider it borrows, if it does."""
        self._stand_ins: list[Component[B]] = []

    @property
    def serving(self) -> B:
        """The adapter that answers now: a stand-in's while an override is in force."""
        return self._stand_ins[-1].backend if self._stand_ins else self.backend

    @contextmanager
    def replaced_by(self, stand_in: "Component[B]") -> Generator[None, None, None]:
        """Let `stand_in` answer in this component's place for the block."""
        self._stand_ins.append(stand_in)
        try:
            yield
        finally:
            self._stand_ins.remove(stand_in)

    async def __aenter__(self) -> Self:
        """Open the backend."""
        await self.backend.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the backend."""
        await self.backend.__aexit__(exc_type, exc, traceback)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.backend).__name__}, name={self.name!r})"


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError("name: a component's name is a non-empty string")
    return name
