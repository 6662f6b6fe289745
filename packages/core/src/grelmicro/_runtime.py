"""Which apps are open: with the default injection container, the only module-level state.

It stands below the composer, so that a primitive finds its backend without importing it.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from grelmicro.errors import NoActiveAppError

__all__ = [
    "App",
    "OpenApp",
    "ambient_backend",
    "context_app",
    "current_app",
    "mark_closed",
    "mark_open",
]


class App(Protocol):
    """What finds a component of an app, or says why there is none."""

    def get(self, kind: str, name: str = "default") -> Any: ...


class OpenApp:
    """What a primitive needs of an app for every call.

    It is no part of the app itself, whose attributes are slow to read, as it has a `__getattr__`.

    Args:
        app: Whose it is.
    """

    __slots__ = ("app", "is_open", "serving")

    def __init__(self, app: App) -> None:
        self.app = app
        self.is_open = False
        self.serving: Mapping[tuple[str, str], Any] = {}
        """The components that answer now, by kind and name."""


_open_apps: dict[int, OpenApp] = {}
_context: ContextVar[OpenApp | None] = ContextVar("grelmicro_app", default=None)


def mark_open(app: OpenApp) -> None:
    """Make `app` the context's own, and one of the process's open apps."""
    _open_apps[id(app)] = app
    _context.set(app)


def mark_closed(app: OpenApp, outer: OpenApp | None) -> None:
    """Forget `app`; the context's own becomes `outer` again where it still is `app`."""
    _open_apps.pop(id(app), None)
    if _context.get() is app:
        _context.set(outer)


def context_app() -> OpenApp | None:
    """The app that this context opened, open or not."""
    return _context.get()


def current_app() -> OpenApp:
    """The context's open app; else the only one that is open in this process.

    A server runs its start-up and its requests in tasks of different contexts, which is why the
    process-wide answer exists.

    Raises:
        NoActiveAppError: No app is open, or several are and none is the context's own.
    """
    app = _context.get()
    if app is not None and app.is_open:
        return app
    try:
        (app,) = _open_apps.values()
    except ValueError:
        raise NoActiveAppError(_why_none()) from None
    return app


def ambient_backend(kind: str, name: str) -> Callable[[], Any]:
    """Make the function that finds, anew for every call, the backend of the current app.

    What it does is on the way of every call of every primitive, hence written out.
    """
    key = (kind, name)
    context = _context.get

    def find() -> Any:
        app = context()
        if app is None or not app.is_open:
            app = current_app()
        try:
            return app.serving[key].backend
        except KeyError:
            return app.app.get(kind, name).backend

    return find


def _why_none() -> str:
    if _open_apps:
        return (
            f"{len(_open_apps)} apps are open in this process and none of them belongs to this "
            "context: enter one here, or pass backend= to the primitive"
        )
    return (
        "no app is open: enter one with `async with Grelmicro(uses=[...])`, "
        "or pass backend= to the primitive"
    )
