"""One worker: it counts in a file that all workers share, under a lock that they share.

    python worker.py NAME FOLDER SECONDS

The file is read, and replaced a moment later by one with a higher count: two workers at once would
lose an update. What the worker is sure to have counted, it also writes to a journal of its own.
SIGUSR1 makes it keep the lock the next time it has it, until it is killed.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from time import monotonic
from typing import TypedDict

from grelmicro import Grelmicro
from grelmicro.providers import autodiscover
from grelmicro.sync import Lock

TASKS = 4
LEASE = 1.0
WORK = 0.002


class Ledger(TypedDict):
    """What the shared file says."""

    fencing: int
    counts: dict[str, int]


class Worker:
    """Counts, until its time is over."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._file = folder / "ledger.json"
        self._journal = folder / f"{name}.journal"
        self._lock = Lock("counter", lease_duration=LEASE)
        self._counted = 0
        self._longest = 0.0
        self._keeps_it = False

    async def run(self, seconds: float) -> None:
        """Count in several tasks."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._keep_it)
        async with Grelmicro(uses=[autodiscover()]):
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            end = monotonic() + seconds
            await asyncio.gather(*(self._count_until(end) for _ in range(TASKS)))

    def _keep_it(self) -> None:
        self._keeps_it = True

    async def _count_until(self, end: float) -> None:
        while monotonic() < end:
            asked = monotonic()
            async with self._lock as handle:
                self._longest = max(self._longest, monotonic() - asked)
                if self._keeps_it:
                    print("holding", flush=True)
                    await asyncio.Event().wait()
                await self._count(handle.fencing_token)

    async def _count(self, fencing: int) -> None:
        ledger: Ledger = json.loads(self._file.read_text())
        await asyncio.sleep(WORK)
        if fencing <= ledger["fencing"]:
            raise RuntimeError("somebody with a newer lease was here: this one is late")
        counts = {**ledger["counts"], self._name: ledger["counts"].get(self._name, 0) + 1}
        self._replace({"fencing": fencing, "counts": counts})
        self._counted += 1
        self._journal.write_text(json.dumps({"counted": self._counted, "longest": self._longest}))

    def _replace(self, ledger: Ledger) -> None:
        """In one step: whoever is killed here leaves the old file, or the new one."""
        draft = self._file.with_suffix(f".{self._name}")
        draft.write_text(json.dumps(ledger))
        os.replace(draft, self._file)


if __name__ == "__main__":
    asyncio.run(Worker(sys.argv[1], Path(sys.argv[2])).run(float(sys.argv[3])))
