"""What the service is about: notes, and those who want to hear of them at once."""

import asyncio
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TypedDict

from store import Session

BACKLOG = 1_000
"""Events that a slow listener may be behind; then it misses the oldest."""


class Note(TypedDict):
    """One note."""

    pk: int
    text: str


class Event(TypedDict):
    """What happened to a note."""

    what: str
    note: Note


class InvalidNoteError(ValueError):
    """A note without a text."""


class Feed:
    """Tells events to everybody in this process who listens."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[Event]] = set()

    @property
    def listeners(self) -> int:
        """How many there are."""
        return len(self._queues)

    @contextmanager
    def listening(self) -> Generator[asyncio.Queue[Event]]:
        """A queue of what happens in the meantime."""
        queue: asyncio.Queue[Event] = asyncio.Queue(BACKLOG)
        self._queues.add(queue)
        try:
            yield queue
        finally:
            self._queues.remove(queue)

    def tell(self, events: Iterable[Event]) -> None:
        """Let all listeners know."""
        for event in events:
            for queue in self._queues:
                if queue.full():
                    queue.get_nowait()
                queue.put_nowait(event)


class Notes:
    """The notes, in a transaction.

    Args:
        session: Where they are.
        news: What is to be told once they are there for everybody.
    """

    def __init__(self, session: Session, news: list[Event]) -> None:
        self._session = session
        self._news = news

    async def all(self) -> list[Note]:
        """In the order of their making."""
        rows = await self._session.fetch("SELECT pk, text FROM example_notes ORDER BY pk")
        return [Note(pk=pk, text=text) for pk, text in rows]

    async def find(self, pk: int) -> Note | None:
        """One of them, or None."""
        rows = await self._session.fetch("SELECT pk, text FROM example_notes WHERE pk = $1", pk)
        return Note(pk=rows[0][0], text=rows[0][1]) if rows else None

    async def add(self, text: str) -> Note:
        """Make one.

        Raises:
            InvalidNoteError: It has no text.
        """
        if not text.strip():
            raise InvalidNoteError("a note has a text")
        statement = "INSERT INTO example_notes (text) VALUES ($1) RETURNING pk"
        ((pk,),) = await self._session.fetch(statement, text)
        note = Note(pk=pk, text=text)
        self._news.append(Event(what="added", note=note))
        return note

    async def remove(self, pk: int) -> bool:
        """Delete one; False if there is none."""
        statement = "DELETE FROM example_notes WHERE pk = $1 RETURNING text"
        rows = await self._session.fetch(statement, pk)
        self._news += [Event(what="removed", note=Note(pk=pk, text=text)) for (text,) in rows]
        return bool(rows)
