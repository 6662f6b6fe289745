"""A server program as a child process that cannot outlive this one."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from grelmicro.testing.servers._ladder import ServerStartError
from grelmicro.testing.servers._ports import free_port

LOG = "server.log"
_PORT_TRIES = 8
_READY_SECONDS = 15.0
_STOP_SECONDS = 3.0
# The shell leaves a watcher behind and becomes the server, so the child's id is the server's. The
# watcher reads our pipe: a line sends it away; its end, which any death of ours brings (SIGKILL
# too, on every POSIX system), makes it kill the server with its children, frozen ones too, and
# remove the folder. It is one of these children itself.
_WATCHED = """
exec 3<&0 </dev/null
{
  read -r _ <&3 || {
    PATH=$PATH:/bin:/usr/bin
    kill -STOP $$
    me=$(exec sh -c 'echo $PPID')
    for child in $(cat /proc/$$/task/$$/children 2>/dev/null || pgrep -P $$); do
      [ "$child" = "$me" ] || kill -9 "$child"
    done
    kill -9 $$
    rm -rf -- "$0" || { sleep 1; rm -rf -- "$0"; }
  } 2>/dev/null
} &
exec "$@" 3<&-
"""


class _PortTakenError(ServerStartError):
    """Another process bound the port between the choice and the start."""


class _NotYetError(ServerStartError):
    """The server ended because something has to pass first."""


class ServerProcess:
    """One server in a temporary folder, on one port. Every method may be called in any state.

    A forked copy of this process keeps the server alive as well, until it ends or stops it.

    Args:
        argv: The command line for a port. The process runs in its folder and logs to `server.log`.
        ready: Whether the server with this port and process id answers; never raises.
        user: The ids of the user and the group to run as, where that is somebody else, who owns
            the folder then.
        parent: The folder to make the server's own in; by default the usual one.
        passing: What in the log of a start that failed says that it may work in a moment.
    """

    def __init__(
        self,
        argv: Callable[[int], Sequence[str]],
        ready: Callable[[int, int], bool],
        *,
        user: tuple[int, int] | None = None,
        parent: str | None = None,
        passing: Sequence[str] = (),
    ) -> None:
        self._argv = argv
        self._ready = ready
        self._user = user
        self._parent = parent
        self._passing = passing
        self._child: subprocess.Popen[bytes] | None = None
        self.folder: Path | None = None
        self.port: int = 0

    @property
    def pid(self) -> int | None:
        """The id of the running process; None when none runs."""
        if self._child is not None and self._child.poll() is None:
            return self._child.pid
        self._forget()
        return None

    def start(self) -> None:
        """Start and wait until the server answers; the port and the folder stay the same.

        Raises:
            ServerStartError: It ended, or did not answer in time; with the end of its log.
        """
        if self.pid is not None:
            return
        for ports_left in reversed(range(1 if self.port else _PORT_TRIES)):
            port = self.port or free_port()
            try:
                self._launch_in_time(port)
            except _PortTakenError:
                if not ports_left:
                    raise
            else:
                self.port = port
                return

    def _launch_in_time(self, port: int) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                return self._launch(port)
            except _NotYetError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _make_folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="grelmicro-", dir=self._parent))
        if self._user is not None:
            os.chown(folder, *self._user)
        return folder

    def _launch(self, port: int) -> None:
        self.folder = self.folder or self._make_folder()
        log = self.folder / LOG
        log.unlink(missing_ok=True)
        user, group = self._user or (None, None)
        try:
            program, *args = self._argv(port)
            shell = ["/bin/sh", "-c", _WATCHED, str(self.folder)]
            with log.open("ab") as output:
                self._child = subprocess.Popen(  # noqa: S603 - the caller's own program, no shell text
                    [*shell, self._executable(program), *args],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    cwd=self.folder,
                    env=os.environ | {"LC_ALL": "C"},
                    bufsize=0,
                    start_new_session=True,  # the terminal's Ctrl-C is for us, not for the server
                    user=user,
                    group=group,
                    extra_groups=None if user is None else [],
                )
            self._wait(port, program)
        except BaseException:
            self.kill() if self.port else self.stop()
            raise

    def _executable(self, program: str) -> str:
        """Return the program, or a private copy if its file lacks the right to be run."""
        if os.access(program, os.X_OK):
            return program
        assert self.folder is not None
        copy = shutil.copyfile(program, self.folder / "server")
        copy.chmod(0o700)
        return str(copy)

    def _wait(self, port: int, program: str) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while (pid := self.pid) is not None:
            if self._ready(port, pid):
                return
            if time.monotonic() > deadline:
                late = f"{program} did not answer in {_READY_SECONDS:.0f} s"
                raise ServerStartError(f"{late}\n{self._log()}")
            time.sleep(0.005)
        log = self._log()
        raise self._kind_of_failure(log)(f"{program} ended at its start\n{log}")

    def _kind_of_failure(self, log: str) -> type[ServerStartError]:
        if os.strerror(errno.EADDRINUSE) in log:
            return _PortTakenError
        return _NotYetError if any(text in log for text in self._passing) else ServerStartError

    def _log(self) -> str:
        assert self.folder is not None
        return "\n".join((self.folder / LOG).read_text(errors="replace").splitlines()[-20:])

    def kill(self) -> None:
        """End the process at once (SIGKILL); the folder stays for a restart."""
        self._signal(signal.SIGKILL)
        self._reap(None)

    def pause(self) -> None:
        """Stop the process in its tracks (SIGSTOP): connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)
        if (pid := self.pid) is not None and hasattr(os, "waitid"):  # macOS has it from 3.13
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a paused process go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """End the process gently if it runs, and start it again: same port, same folder."""
        self._end()
        self.start()

    def stop(self) -> None:
        """End the process, gently at first, and remove its folder."""
        self._end()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def _end(self) -> None:
        self.resume()
        self._signal(signal.SIGTERM)
        try:
            self._reap(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def _signal(self, number: int) -> None:
        if self._child is not None and self.pid is not None:
            self._child.send_signal(number)

    def _reap(self, seconds: float | None) -> None:
        if self._child is not None:
            self._child.wait(seconds)
            self._forget()

    def _forget(self) -> None:
        """Send the watcher away: the id of a dead process may soon be another's."""
        if self._child is not None and self._child.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self._child.stdin as watcher:
                watcher.write(b"\n")
        self._child = None
