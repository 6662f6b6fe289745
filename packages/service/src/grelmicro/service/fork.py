"""Forked workers that share listening sockets."""

import asyncio
import logging
import os
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from grelmicro.service import _loops
from grelmicro.service._errors import WorkersError
from grelmicro.service._exits import run
from grelmicro.service._parent import Parent
from grelmicro.service._references import Reference, absolute, calling_package
from grelmicro.service._sockets import Listeners, listen
from grelmicro.service._stage import Stage
from grelmicro.service._systemd import Notifier, forget, inherited
from grelmicro.service._worker import Channel, WorkerStage, provide

__all__ = ["WorkersError", "stage"]

_SHARE = 0.9
"""Which part of the whole grace a worker has; in the rest, its process ends."""
_MARGIN = 2.0
"""Seconds that a worker has beside its own time to start."""
_log = logging.getLogger("grelmicro.service")


def stage(
    *plugins: Reference,
    forks: int = 0,
    sockets: Sequence[str] = (),
    grace: float = 25.0,
    startup_timeout: float = 60.0,
) -> None:
    """Run plugins in forked workers, each of which is a stage, until all of them have ended.

    Sockets are bound, and listen, before the first fork; all workers accept from the same queue, so
    that no connection is lost with a worker. In a worker each is a component, of the class
    `socket.socket` and with its reference as its name. systemd's sockets are components as well.

    SIGTERM and SIGINT stop all workers; a second one does not wait, a third kills. SIGHUP replaces
    workers one by one: the old one is asked to stop when the new one is ready. SIGUSR1 and SIGUSR2
    are forwarded. A worker that crashes is replaced, after a pause; one that ends with 0 is not.
    Workers stop when their parent is gone.

    To be called in the main thread, where no event loop runs, before connections, pools or threads
    are made: forked ones do not work.

    Args:
        plugins: See `plugin.stage`. What is named by text is imported by each worker, anew after
            SIGHUP, unless the parent has imported it.
        forks: How many workers; 0: one for each CPU that this process may use.
        sockets: `tcp://host:port`, `tcp://[ipv6]:port` or `unix:///path` each. No host means all
            IPv4 addresses, port 0 one that the system chooses; the log has it. The file of a Unix
            socket is replaced if nobody listens there, and removed at the end.
        grace: Seconds in which all have stopped, or are killed; above 0.
        startup_timeout: Seconds in which a worker has to be ready; above 0.

    Raises:
        ValueError: A socket's reference is none, or a number is out of range.
        OSError: A socket cannot be bound; the message has its reference.
        RuntimeError: An event loop runs, or this is not the main thread.
        WorkersError: A worker did not start, kept crashing, or did not end as it should; the others
            were stopped.
    """
    package = calling_package(1)
    references = [absolute(each, package) for each in plugins]
    run_forked(references, forks, sockets, grace, startup_timeout)


def run_forked(
    references: Sequence[Reference],
    forks: int,
    sockets: Sequence[str],
    grace: float,
    startup_timeout: float,
) -> None:
    """Do what `stage` does, with references that are not relative."""
    _check(forks, grace, startup_timeout)

    async def work(channel: Channel, listeners: Listeners) -> list[Any]:
        options = {"grace": grace * _SHARE, "startup_timeout": startup_timeout}
        return await WorkerStage(channel, listeners.named, **options).run(references)

    def run_worker(channel: Channel) -> int:
        forget()
        return run(lambda: _loops.run(work(channel, listeners)))

    with _listening(sockets) as listeners:
        parent = Parent(
            forks or _usable_cpus(),
            run_worker,
            _Observer(listeners),
            grace=grace,
            patience=startup_timeout + _MARGIN,
        )
        parent.run()


def run_alone(
    references: Sequence[Reference], sockets: Sequence[str], grace: float, startup_timeout: float
) -> list[Any]:
    """Run a stage with sockets in this very process; its results."""

    async def work() -> list[Any]:
        alone = Stage(grace=grace, startup_timeout=startup_timeout)
        provide(alone, listeners.named)
        return await alone.run(references)

    with _listening(sockets) as listeners:
        return _loops.run(work())


class _Observer:
    """Tells systemd; closes the parent's own sockets when all are to stop.

    Otherwise connections would wait in a queue that no worker accepts from any more.
    """

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners
        self._notifier = Notifier()

    def ready(self) -> None:
        self._notifier.ready()

    def stopping(self) -> None:
        self._listeners.close()
        self._notifier.stopping()


@contextmanager
def _listening(sockets: Sequence[str]) -> Generator[Listeners, None, None]:
    listeners = listen(sockets, inherited)
    try:
        for address in listeners.addresses():
            _log.info("listening on %s", address)
        yield listeners
    finally:
        listeners.close()
        listeners.unlink()


def _check(forks: int, grace: float, startup_timeout: float) -> None:
    if forks < 0:
        raise ValueError(f"forks: {forks}: use 0 for one per CPU, or a number of workers")
    for name, seconds in (("grace", grace), ("startup_timeout", startup_timeout)):
        if not seconds > 0:
            raise ValueError(f"{name}: {seconds} is no number of seconds above 0")
    if not hasattr(os, "fork"):
        raise RuntimeError("fork.stage: this system cannot fork: use plugin.stage")
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "fork.stage: an event loop runs here, and would be forked: call it outside of it"
        )
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("fork.stage: signals reach the main thread only: call it there")


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
