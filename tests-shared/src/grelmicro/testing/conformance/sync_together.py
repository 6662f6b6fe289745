"""What every synchronization backend promises: to other processes, in bad networks, to models."""

import asyncio
import os
import tempfile
from collections.abc import Awaitable
from typing import Any

from grelmicro.sync import SyncBackend
from grelmicro.testing.conformance._faults import faults_of
from grelmicro.testing.conformance._kit import clause, promise, same
from grelmicro.testing.conformance._models import Machine, agree
from grelmicro.testing.conformance._processes import in_processes
from grelmicro.testing.conformance._subject import Capability, Subject
from grelmicro.testing.conformance.cache import LONG

_TURNS = 15


async def _take_turns(locks: SyncBackend, number: int, witness: str) -> list[int]:
    """Hold the lease some times; a file that must not exist yet is the witness."""
    numbers = []
    for turn in range(_TURNS):
        token = f"{number} {turn}"
        fencing = 0
        while not fencing:
            fencing = await locks.acquire(name="lock:a", token=token, duration=LONG)
        os.close(os.open(witness, os.O_CREAT | os.O_EXCL))
        await asyncio.sleep(0.001)
        os.unlink(witness)
        numbers.append(fencing)
        await locks.release(name="lock:a", token=token)
    return numbers


@clause(
    "sync.processes.exclude", needs=(Capability.PROCESSES,), closed=True, seconds=60.0, slow=True
)
async def processes_exclude(subject: Subject) -> None:
    """Of several processes one has the lease at a time, and numbers rise through all of them.

    That is what a distributed lock is for. Decide on the server. Draw the numbers from one counter.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = await in_processes(subject, "sync", _take_turns, 3, f"{folder}/inside")
        except FileExistsError:
            promise(False, "two processes had the lease at the same time")
    for numbers in found:
        promise(numbers == sorted({*numbers}), f"numbers that do not rise: {numbers}")
    same(len({n for each in found for n in each}), 3 * _TURNS, "how many different numbers")


@clause("sync.model.agrees", closed=True, seconds=60.0, slow=True)
async def model_agrees(subject: Subject) -> None:
    """After any sequence of operations the holder is who it should be, with rising numbers.

    Some defects show only after a certain history. Replay the steps that are told, which are as few
    as could be found.
    """
    await agree(subject, "sync", _Leases)


class _Leases(Machine):
    """Two tokens and two names, and who holds which."""

    steps = ("acquire", "acquire", "release", "look", "hand_over")

    def begin(self) -> None:
        self.holders: dict[str, str] = {}
        self.numbers: dict[str, int] = {}

    def can(self, step: str) -> bool:
        return step == "look" or callable(getattr(self.adapter, step, None))

    def do(self, step: str, first: int, second: int) -> Awaitable[Any]:
        name, token = f"lock:{first % 2}", f"t{second % 2}"
        return getattr(self, f"_{step}")(name, token)  # type: ignore[no-any-return]  # of `steps`

    async def _acquire(self, name: str, token: str) -> None:
        number = await self.adapter.acquire(name=name, token=token, duration=LONG)
        holder = self.holders.get(name)
        if holder not in (None, token):
            same(number, 0, f"acquiring {name}, which {holder} holds, by {token}")
        elif holder == token:
            same(number, self.numbers[name], f"the number of {token}, which holds {name}")
        else:
            self._changes(name, token, number)

    def _changes(self, name: str, token: str, number: int) -> None:
        before = self.numbers.get(name, 0)
        promise(number > before, f"a number above {before} for {name}, and not {number}")
        self.holders[name], self.numbers[name] = token, number

    async def _release(self, name: str, token: str) -> None:
        found = await self.adapter.release(name=name, token=token)
        same(found, self.holders.get(name) == token, f"release of {name} by {token}")
        if found:
            del self.holders[name]

    async def _look(self, name: str, token: str) -> None:
        holder = self.holders.get(name)
        same(await self.adapter.locked(name=name), holder is not None, f"locked({name})")
        owned = await self.adapter.owned(name=name, token=token)
        same(owned, holder == token, f"owned({name}, {token})")

    async def _hand_over(self, name: str, token: str) -> None:
        given = {"name": name, "token": token, "to": "heir", "duration": LONG}
        number = await self.adapter.hand_over(**given)
        holder = self.holders.get(name)
        if holder == "heir":
            same(number, self.numbers[name], "handed over once more")
        elif holder != token:
            same(number, 0, f"{name} handed over by {token}, which does not hold it")
        else:
            self._changes(name, "heir", number)


async def _use(locks: SyncBackend, name: str) -> None:
    key, token = f"lock:{name}", f"token of {name}"
    number = await locks.acquire(name=key, token=token, duration=LONG)
    promise(number > 0, f"a free lease: expected a number, got {number!r}")
    same(await locks.owned(name=key, token=token), True, f"who owns {name!r}")
    same(await locks.owned(name=key, token="other"), False, f"whether another owns {name!r}")
    same(await locks.release(name=key, token=token), True, f"giving {name!r} back")


faults_of("sync", _use)
