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
        try:
            await lock.__aenter__()
        except SyncError as error:
            self._note(error)
            yield
            return
        self._note(None)
        try:
            yield
        finally:
            try:
                await lock.__aexit__(None, None, None)
            except SyncError as error:  # the value is good all the same
                _log.debug("the lock of a load could not be given back: %s", error)

    @contextmanager
    def alone_in_thread(self, key: str) -> Generator[None, None, None]:
        """`alone` for a worker thread.

        Raises:
            Exception: As `alone`.
            BackendNotOpenError: The backend of locks is not open.
        """
        lock = _lock(key).from_thread
        try:
            lock.__enter__()
        except SyncError as error:
            self._note(error)
            yield
            return
        self._note(None)
        try:
            yield
        finally:
            try:
                lock.__exit__(None, None, None)
            except SyncError as error:
                _log.debug("the lock of a load could not be given back: %s", error)

    def _note(self, error: SyncError | None) -> None:
        if error is not None and not self._fails:
            _log.warning("%s; every process loads %s by itself", error, self._loader)
        self._fails = error is not None


def _lock(key: str) -> Lock:
    name = key if len(key) <= _LONGEST else sha256(key.encode()).hexdigest()
    return Lock(f"cache:{name}", lease_duration=_LEASE)
