"""Locks among real processes, some of which are killed."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from lock_fleet import Fleet

from grelmicro.sync import LeaderElection, Lock, WouldBlockError

PROGRAM = Path(__file__).with_name("lock_worker.py")


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return (await process.stdout.readline()).decode().strip()


async def start(stack: AsyncExitStack, *arguments: object) -> Process:
    """A process that is ready; it is gone at the end of the test."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error"),
        *map(str, arguments),
        stdin=PIPE,
        stdout=PIPE,
        limit=1 << 22,
    )
    stack.push_async_callback(process.wait)
    stack.callback(lambda: process.kill() if process.returncode is None else None)
    assert await line_of(process) == "ready"
    return process


def go(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


def kill(process: Process, folder: Path) -> None:
    """Kill it, and note that it is dead, whoever has yet to see that."""
    (folder / str(process.pid)).touch()
    process.kill()


async def test_never_two_inside_while_holders_are_killed(fleet: Fleet, tmp_path: Path) -> None:
    await fleet.backend()
    arguments = (PROGRAM, fleet.url, fleet.space, tmp_path, 4, 32)
    async with AsyncExitStack() as stack:
        living = [await start(stack, *arguments) for _ in range(4)]
        dying = [await start(stack, *arguments) for _ in range(2)]
        for process in [*living, *dying]:
            go(process)
        for process in dying:
            await killed_inside(process, tmp_path)
        results = [json.loads(await line_of(process)) for process in living]
        assert [await process.wait() for process in living] == [0] * 4
    tokens = [token for result in results for token in result["tokens"]]
    assert len({*tokens}) == len(tokens)
    assert all(sum(result["counts"]) for result in results)


async def killed_inside(process: Process, folder: Path) -> None:
    """Kill a process at a moment when the witness says that it is inside."""
    witness = folder / "inside"
    async with asyncio.timeout(30):
        while True:
            try:
                inside = witness.read_text()
            except FileNotFoundError:
                inside = ""
            if inside == str(process.pid):
                return kill(process, folder)
            await asyncio.sleep(0)


async def test_no_task_is_left_out(fleet: Fleet, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        workers = [
            await start(stack, PROGRAM, fleet.url, fleet.space, tmp_path, 3, 8) for _ in range(4)
        ]
        for process in workers:
            go(process)
        results = [json.loads(await line_of(process)) for process in workers]
    counts = [count for result in results for count in result["counts"]]
    assert min(counts) > 0
    assert sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts)) > 0.8


async def test_a_forked_worker_has_an_identity_of_its_own(fleet: Fleet) -> None:
    """The lock object is made, and used, before the fork."""
    backend = await fleet.backend()
    lock = Lock("cart", backend=backend)
    async with lock:
        pass
    reader, writer = os.pipe()
    async with lock as handle:
        child = os.fork()
        if not child:
            os._exit(_in_the_child(fleet, writer))
        os.close(writer)
        assert await asyncio.to_thread(os.read, reader, 100) == b"refused, not owned"
        assert os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1]) == 0
        os.close(reader)
        assert await lock.owned()
        assert not handle.lost.is_set()


def _in_the_child(fleet: Fleet, writer: int) -> int:
    async def look() -> str:
        stack = AsyncExitStack()
        backend = await fleet._replace(stack=stack).backend()
        found = []
        lock = Lock("cart", backend=backend)
        try:
            await lock.acquire_nowait()
        except WouldBlockError:
            found.append("refused")
        found.append("owned" if await lock.owned() else "not owned")
        await stack.aclose()
        return ", ".join(found)

    try:
        asyncio.events._set_running_loop(None)
        os.write(writer, asyncio.new_event_loop().run_until_complete(look()).encode())
    except BaseException as error:
        os.write(writer, repr(error).encode()[:100])
        return 1
    return 0


ELECTION = """
import asyncio, sys
sys.path.insert(0, {folder!r})
from lock_fleet import Fleet, AsyncExitStack
from types import SimpleNamespace
from grelmicro.sync import LeaderElection

async def main():
    async with AsyncExitStack() as stack:
        fleet = Fleet({kind!r}, SimpleNamespace(url={url!r}), {space!r}, stack)
        backend = await fleet.backend()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        election = LeaderElection(
            "boss", backend=backend, lease_duration=1, renew_deadline=0.7, retry_interval=0.1
        )
        async with election:
            print(election.fencing_token, flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_leader_that_is_killed_has_a_successor(fleet: Fleet) -> None:
    backend = await fleet.backend()
    details: dict[str, Any] = {"kind": fleet.kind, "url": fleet.url, "space": fleet.space}
    program = ELECTION.format(folder=str(Path(__file__).parent), **details)
    async with AsyncExitStack() as stack:
        process = await start(stack, "-c", program)
        go(process)
        number = int(await line_of(process))
        election = LeaderElection(
            "boss", backend=backend, lease_duration=1, renew_deadline=0.7, retry_interval=0.1
        )
        running = asyncio.create_task(election())
        await asyncio.sleep(1.5)  # longer than its lease, which it renews
        assert not election.is_leader()
        process.kill()
        async with asyncio.timeout(5):
            await election.wait_for_leader()
        assert election.fencing_token > number
        running.cancel()
        await asyncio.wait([running])
    successor = LeaderElection("boss", backend=await fleet.backend())
    async with asyncio.timeout(1):  # handed over at once: its lease would last for 15 s
        async with successor:
            assert successor.fencing_token > number
