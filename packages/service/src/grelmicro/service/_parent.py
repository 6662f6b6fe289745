"""The parent of forked workers: it starts them, replaces them, and ends when all have ended.

It has no event loop, which would be forked with it: it waits for signals, and for what its workers
tell, with a selector.
"""

import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from grelmicro.service._errors import WorkersError
from grelmicro.service._exits import described
from grelmicro.service._lifecycle import Observer
from grelmicro.service._wakeups import Wakeups
from grelmicro.service._worker import FORCE, LEAVING, READY, Channel
from grelmicro.service._workers import NEVER, Crashes, Worker

__all__ = ["Parent"]

_FORCED = 4.0
"""Seconds until workers are killed that were told not to wait."""
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_PAUSE = 1.0
"""Seconds until a worker is tried again that the system has no room for."""
_log = logging.getLogger("grelmicro.service")


class Parent:
    """Keeps a number of workers going.

    Args:
        forks: How many.
        work: What a worker does, given where its parent is; its exit status.
        observer: Who is told that all are ready, and that all are to stop.
        grace: Seconds from then until workers are killed.
        patience: Seconds in which a worker has to be ready.
    """

    def __init__(
        self,
        forks: int,
        work: Callable[[Channel], int],
        observer: Observer,
        *,
        grace: float,
        patience: float,
    ) -> None:
        self._forks = forks
        self._work = work
        self._observer = observer
        self._grace = grace
        self._patience = patience
        self._workers: list[Worker] = []
        self._crashes = Crashes()
        self._awaited = set[int]()
        """The numbers of those who have not been ready since the beginning."""
        self._queue: list[Worker] = []
        self._old: Worker | None = None
        self._new: Worker | None = None
        """Who are replaced, one after the other: the first of them, and by whom."""
        self._stops = 0
        """How often it was to stop."""
        self._failure: str | None = None

    def run(self) -> None:
        """Start all workers, and wait until none is left.

        Raises:
            WorkersError: One did not start, kept crashing, or did not end as it should.
            OSError: There cannot be so many processes.
        """
        with Wakeups() as self._wakeups, selectors.DefaultSelector() as self._selector:
            self._selector.register(self._wakeups, selectors.EVENT_READ)
            self._awaited.update(range(1, self._forks + 1))
            try:
                for number in range(1, self._forks + 1):
                    self._start(number)
                while self._workers or self._crashes.due:
                    self._turn()
            finally:
                self._kill_all()
        if self._failure is not None:
            raise WorkersError(self._failure)

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._timeout()):
            if key.data is not None:
                self._hear(key.data)
                continue
            for number in self._wakeups.read():
                self._receive(number)
        for worker in [*self._workers]:
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._ended(worker, os.waitstatus_to_exitcode(status))
        self._be_on_time()

    def _timeout(self) -> float | None:
        times = [*self._crashes.due.values(), *(worker.deadline for worker in self._workers)]
        earliest = min(times)
        return None if earliest == NEVER else max(0.0, earliest - monotonic())

    def _be_on_time(self) -> None:
        for worker in self._workers:
            if worker.deadline <= monotonic():
                _log.error("%s is killed: it took too long", worker)
                worker.deadline = NEVER
                worker.send(signal.SIGKILL)
        for number in self._crashes.pop():
            self._start_again(number)

    # starting

    def _start(self, number: int) -> Worker:
        ours, theirs = socket.socketpair()
        try:
            pid = self._wakeups.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if not pid:
            os._exit(self._be_worker(ours, theirs))
        theirs.close()
        worker = Worker(number, pid, Channel(ours), self._patience)
        self._workers.append(worker)
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)
        _log.info("%s is started", worker)
        return worker

    def _start_again(self, number: int) -> Worker | None:
        """Start one, now or, if the system has no room for it, later."""
        try:
            return self._start(number)
        except OSError as error:
            _log.error("worker %d cannot be started: %s", number, error)
            if not self._stay(number):
                self._crashes.due[number] = monotonic() + _PAUSE
            return None

    def _be_worker(self, ours: socket.socket, theirs: socket.socket) -> int:
        """The rest of a child's life; what it has of its siblings' would keep them from hearing."""
        try:
            ours.close()
            self._selector.close()
            for worker in self._workers:
                worker.channel.close()
            return self._work(Channel(theirs))
        except BaseException:
            _log.critical("a worker failed", exc_info=True)
            return 1
        finally:
            for flush in (logging.shutdown, sys.stdout.flush, sys.stderr.flush):
                with suppress(Exception):  # whoever has read it may be gone
                    flush()

    def _refill(self, number: int) -> None:
        """Start a worker of this number, unless there is one that stays."""
        if not self._stops and not self._stay(number):
            self._start_again(number)

    def _stay(self, number: int) -> bool:
        return any(worker.stays for worker in self._workers if worker.number == number)

    # what is heard

    def _hear(self, worker: Worker) -> None:
        said = worker.channel.heard()
        if worker.channel.closed:
            self._forget(worker)
        if READY in said:
            worker.is_ready()
            self._settled(worker.number)
            self._take_over(worker)
        if LEAVING in said and worker.stays:
            _log.info("%s was sent a signal, and stops", worker)
            worker.leaves = True
            worker.hurry(self._grace)
            self._refill(worker.number)

    def _forget(self, worker: Worker) -> None:
        if worker.channel.fileno() >= 0:
            self._selector.unregister(worker.channel)
            worker.channel.close()

    def _settled(self, number: int) -> None:
        if number in self._awaited:
            self._awaited.discard(number)
            if not self._awaited and not self._stops:
                _log.info("all workers are ready")
                self._observer.ready()
                self._roll()

    def _ended(self, worker: Worker, code: int) -> None:
        if worker.channel.fileno() >= 0:
            self._hear(worker)
        self._workers.remove(worker)
        self._forget(worker)
        clean = code == 0 or (-code in _STOPPING and not worker.stays)
        _log.log(logging.INFO if clean else logging.ERROR, "%s %s", worker, described(code))
        if clean:
            self._settled(worker.number)
        elif self._stops:
            self._fail(f"{worker} {described(code)} when it was to stop")
        elif worker.number in self._awaited:
            self._fail(f"{worker} {described(code)} before it was ready")
        elif worker.stays:
            self._crashed(worker)
        self._moved_on(worker)

    def _crashed(self, worker: Worker) -> None:
        if self._stay(worker.number):
            return
        pause = self._crashes.count(worker)
        if pause is None:
            self._fail(f"worker {worker.number} keeps crashing")
        else:
            _log.error("worker %d is replaced in %.1f seconds", worker.number, pause)

    # replacing one by one

    def _roll(self) -> None:
        """Begin with the next who is to be replaced, unless one is being replaced."""
        while self._queue and not (self._stops or self._awaited or self._old or self._new):
            old = self._queue.pop(0)
            if old.stays and old in self._workers:
                self._new = self._start_again(old.number)
                self._old = self._new and old

    def _take_over(self, worker: Worker) -> None:
        if worker is not self._new:
            return
        self._new = None
        if self._old is not None and self._old.stays:
            self._old.ask(self._grace)
        self._roll()

    def _moved_on(self, worker: Worker) -> None:
        if worker is self._new:
            if not self._stops:
                _log.error("%s did not start: no more workers are replaced", worker)
            self._new = self._old = None
            self._queue.clear()
        if worker is self._old:
            self._old = None
        self._roll()

    # signals, and the end

    def _receive(self, number: signal.Signals) -> None:
        if number in _STOPPING:
            _log.info("%s: %s", number.name, "stopping, at once" if self._stops else "stopping")
            self._stop()
        elif number == signal.SIGHUP and not self._stops:
            _log.info("SIGHUP: replacing workers one by one")
            self._queue = [worker for worker in self._workers if worker is not self._old]
            self._roll()
        elif number in (signal.SIGUSR1, signal.SIGUSR2):
            for worker in self._workers:
                worker.send(number)

    def _stop(self) -> None:
        """Ask all to stop; again: do not wait; once more: kill them."""
        self._stops += 1
        if self._stops == 1:
            self._crashes.due.clear()
            self._observer.stopping()
            for worker in self._workers:
                worker.ask(self._grace)
            return
        for worker in self._workers:
            worker.channel.tell(FORCE)
            worker.hurry(_FORCED if self._stops == 2 else 0.0)

    def _fail(self, why: str) -> None:
        _log.critical("the service fails: %s", why)
        self._failure = self._failure or why
        if not self._stops:
            self._stop()

    def _kill_all(self) -> None:
        """Whatever has happened, leave no child."""
        for worker in self._workers:
            worker.send(signal.SIGKILL)
            os.waitpid(worker.pid, 0)
            self._forget(worker)
