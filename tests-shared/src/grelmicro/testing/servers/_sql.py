"""Just enough of Postgres to wait for a server and to clean up after a test."""

import asyncio
import socket
import struct
import threading

_PROTOCOL = 196_608  # version 3.0
_SECONDS = 10.0


def accepts(host: str, port: int, user: str, *, timeout: float = 1.0) -> bool:
    """Whether a server answers there that lets this user begin to log in."""
    body = struct.pack("!i", _PROTOCOL)
    body += b"".join(word.encode() + b"\0" for word in ("user", user, "database", user, ""))
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.sendall(struct.pack("!i", len(body) + 4) + body)
            return connection.recv(1) == b"R"
    except OSError:
        return False


def run_sql(url: str, sql: str) -> None:
    """Run statements without arguments, on a connection of their own.

    In a thread of its own, as a loop may run in this one.

    Raises:
        ImportError: `asyncpg` is not installed.
        Exception: Whatever `asyncpg` raised.
    """
    failures: list[BaseException] = []

    def body() -> None:
        try:
            asyncio.run(_run_sql(url, sql))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


async def _run_sql(url: str, sql: str) -> None:
    import asyncpg  # slow to load, and only who tests with Postgres has it

    connection = await asyncpg.connect(url, timeout=_SECONDS, command_timeout=_SECONDS)
    try:
        await connection.execute(sql)
    finally:
        connection.terminate()
