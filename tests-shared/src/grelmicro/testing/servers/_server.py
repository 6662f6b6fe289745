"""The handle that every rung of every ladder gives."""

from collections.abc import Callable
from typing import ClassVar, Self
from urllib.parse import urlsplit

from grelmicro.testing.servers._process import ServerProcess


class Server:
    """A running server. As a context manager it stops at the end of the block.

    Every method may be called in any state of the server, twice as well. They block: for
    milliseconds, or for a few seconds where a server does not want to end. One thread at a time.

    Args:
        url: Where it is, credentials included.
        process: Its process, where that is ours.
        release: What `stop` calls where it is not.
    """

    default_port: ClassVar[int] = 0

    def __init__(
        self,
        url: str,
        *,
        process: ServerProcess | None = None,
        release: Callable[[], object] = lambda: None,
    ) -> None:
        parts = urlsplit(url)
        self.url: str = url
        self.host: str = parts.hostname or "localhost"
        self.port: int = parts.port or self.default_port
        self._process = process
        self._release = release

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.host}:{self.port} pid {self.pid}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The id of the process: None where it is not ours, or does not run."""
        return self._process.pid if self._process else None

    def stop(self) -> None:
        """End it, gently at first, and remove its folder; a server that is not ours is let go."""
        if self._process:
            self._process.stop()
        release, self._release = self._release, lambda: None
        release()

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash does. Raises RuntimeError where it is not ours."""
        self._ours.kill()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay, nothing answers. Raises RuntimeError as `kill`."""
        self._ours.pause()

    def resume(self) -> None:
        """Let it go on after `pause` (SIGCONT). Raises RuntimeError as `kill`."""
        self._ours.resume()

    def restart(self) -> None:
        """End it gently if it runs, then start it on the same port and in the same folder.

        After `stop` the folder is a new one.

        Raises:
            RuntimeError: The server is not ours.
            ServerStartError: It did not come back; with the end of its log.
        """
        self._ours.restart()

    @property
    def _ours(self) -> ServerProcess:
        if self._process is None:
            raise RuntimeError("this server is not ours to kill: ask for one with own=True")
        return self._process
