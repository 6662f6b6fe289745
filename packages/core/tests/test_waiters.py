"""The place of a process in a server's line: who leaves gives it up, whatever came in between."""

import asyncio
from collections.abc import Callable

import pytest

from grelmicro.sync._waiters import Waiters


class Server:
    """A line, and what was asked for."""

    def __init__(self) -> None:
        self.line: list[str] = []
        self.left = 0
        self.waiters = Waiters(
            listen=lambda _: True,
            enlist=self.enlist,
            delist=self.delist,
            unlisten=lambda _: None,
            locked=lambda _: self.locked(),
        )

    async def enlist(self, name: str) -> None:
        self.line.append(name)

    async def delist(self, name: str) -> None:
        self.left += 1
        self.line.remove(name)

    async def locked(self) -> bool:
        return True

    async def wait_a_moment(self) -> None:
        """Wait until there is a place in the line, and give up."""
        waiting = asyncio.create_task(self.waiters.wait("cart", 60))
        await until(lambda: self.line)
        waiting.cancel()
        await asyncio.wait([waiting])


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(4):  # less than the five seconds after which a name is forgotten
        while not true():  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.002)


@pytest.fixture
def server() -> Server:
    return Server()


async def test_who_missed_something_has_a_place_still(server: Server) -> None:
    waiting = asyncio.create_task(server.waiters.wait("cart", 60))
    await until(lambda: server.line)
    server.waiters.missed()  # as when the first subscription is confirmed
    await waiting
    await until(lambda: not server.line)


async def test_who_comes_again_leaves_as_soon(server: Server) -> None:
    for _ in range(3):
        await server.wait_a_moment()
        await until(lambda: not server.line)
        await asyncio.sleep(0.03)  # until nothing but forgetting is left to do


async def test_who_was_called_has_no_place_any_more(server: Server) -> None:
    waiting = asyncio.create_task(server.waiters.wait("cart", 60))
    await until(lambda: server.line)
    server.waiters.heard("cart", server.waiters.id)
    await waiting
    await asyncio.sleep(0.05)  # more than it takes to leave
    assert not server.left
