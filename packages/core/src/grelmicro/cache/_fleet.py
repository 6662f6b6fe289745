"""One load of a key in the whole fleet."""

import logging
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256

from grelmicro.errors import SyncError
from grelmicro.sync import Lock

__all__ = ["FleetLock"]

_log = logging.getLogger("grelmicro.cache")

_LEASE = 10.0
"""Seconds after which others load what a process that died was loading; a live one renews."""

_LONGEST = 1000
"""Characters of a key that is a part of a lock's name as it is."""


class FleetLock:
    """Lets one process load a key at a time, by the locks of the open app.

    While the backend of locks fails, every process loads, and the log says so once.

    Args:
        loader: What the log calls the function.
    """

    def __init__(self, loader: str) -> None:
        self._loader = loader
        self._fails = False

    @asynccontextmanager
    async def alone(self, key: str) -> AsyncGenerator[None, None]:
        """Run the block while no other process loads the key.

        Raises:
            NoActiveAppError: No app is open, and so there is no backend of locks.
            ComponentNotRegisteredError: The open app has none.
        """
        lock = _lock(key)
        fault: SyncError | None = None
        try:
            await lock.__aenter__()
        except SyncError as error:
            fault = error
        self._note(fault)
        try:
            yield
        finally:
            if fault is None:
                with _value_is_good():
                    await lock.__aexit__(None, None, None)

    @contextmanager
    def alone_in_thread(self, key: str) -> Generator[None, None, None]:
        """`alone` for a worker thread.

        Raises:
            Exception: As `alone`.
            BackendNotOpenError: The backend of locks is not open.
        """
        lock = _lock(key).from_thread
        fault: SyncError | None = None
        try:
            lock.__enter__()
        except SyncError as error:
            fault = error
        self._note(fault)
        try:
            yield
        finally:
            if fault is None:
                with _value_is_good():
                    lock.__exit__(None, None, None)

    def _note(self, fault: SyncError | None) -> None:
        """Say once that loads go without a lock."""
        if fault is not None and not self._fails:
            _log.warning("%s; every process loads %s by itself", fault, self._loader)
        self._fails = fault is not None


@contextmanager
def _value_is_good() -> Generator[None, None, None]:
    """Whatever became of the lock meanwhile, what was loaded is returned."""
    try:
        yield
    except SyncError as error:
        _log.debug("the lock of a load could not be given back: %s", error)


def _lock(key: str) -> Lock:
    name = key if len(key) <= _LONGEST else sha256(key.encode()).hexdigest()
    return Lock(f"cache:{name}", lease_duration=_LEASE)
