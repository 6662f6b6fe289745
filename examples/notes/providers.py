"""What views can ask for, and when it is opened and closed."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable

from notes import Event, Feed, Note, Notes
from store import Database, Session, opened

from grelmicro.cache import JsonSerializer, TTLCache
from grelmicro.inject import provider

DATABASE = "sqlite:notes.db"

FindNote = Callable[[int], Awaitable[Note | None]]

known: TTLCache[Note] = TTLCache(ttl=60, serializer=JsonSerializer(), name="example-notes")
"""In the backend of the open app: this process's memory, or what GRELMICRO_URL names."""


@provider(scope="app")
async def database() -> AsyncIterator[Database]:
    """One for as long as the service runs."""
    async with opened(os.environ.get("NOTES_URL", DATABASE)) as database:
        yield database


@provider(scope="app")
async def feed() -> Feed:
    """Everybody who listens."""
    return Feed()


@provider
async def session(database: Database) -> AsyncIterator[Session]:
    """A connection for each request that needs one."""
    async with database.session() as session:
        yield session


@provider
async def news(feed: Feed) -> AsyncIterator[list[Event]]:
    """What is told, and forgotten by the cache, once it is committed."""
    events: list[Event] = []
    try:
        yield events
    except BaseException:
        raise  # it was rolled back: nothing of it has happened
    gone = [str(event["note"]["pk"]) for event in events if event["what"] == "removed"]
    try:
        await known.delete_many(gone)  # who has read it just now may keep it for the ttl
    finally:
        feed.tell(events)


@provider
async def notes(session: Session, news: list[Event]) -> AsyncIterator[Notes]:
    """The notes, in a transaction; `news` was there before it, and so ends after it."""
    async with session.transaction():
        yield Notes(session, news)


@provider(lazy=True)
async def transaction(notes: Notes) -> Notes:
    """The notes, for who may do without a connection: it is opened when this is awaited."""
    return notes


@provider
async def find_note(transaction: Awaitable[Notes]) -> FindNote:
    """A factory: it finds notes in the cache, and asks the database for the others."""

    async def find(pk: int) -> Note | None:
        if (note := await known.get(str(pk))) is None:
            note = await (await transaction).find(pk)
            if note is not None:
                await known.set(str(pk), note)
        return note

    return find
