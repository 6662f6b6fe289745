"""Just enough of the Redis protocol (RESP2) to wait for a server and to clean up after a test."""

import socket
from typing import Self
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit


class RespError(RuntimeError):
    """The server answered with an error."""


class RespConnection:
    """A blocking connection to a `redis://` or `rediss://` URL.

    Args:
        url: Where to connect, with user, password and database number if there are any.
        timeout: Seconds for the connection and for each answer.

    Raises:
        OSError: Nobody answers there.
        RespError: The login or the database was refused.
    """

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        parts = urlsplit(url)
        self._socket = _connect(parts, timeout)
        self._answers = self._socket.makefile("rb")
        try:
            login = [unquote(word) for word in (parts.username, parts.password) if word]
            if parts.password:
                self.call("AUTH", *login)
            database = parse_qs(parts.query).get("db", [parts.path.strip("/")])[0]
            if database:
                self.call("SELECT", database)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._answers.close()
        self._socket.close()

    def call(self, *command: str | bytes) -> object:
        """Send one command and return its answer: bytes, int, None or a list of them.

        Raises:
            RespError: The server refused the command.
            OSError: The connection broke, or no answer came in time.
        """
        words = [word.encode() if isinstance(word, str) else word for word in command]
        lines = [b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)]
        self._socket.sendall(b"".join(lines))
        return self._answer()

    def _answer(self) -> object:
        line = self._answers.readline()
        kind, rest = line[:1], line[1:].rstrip()
        match kind:
            case b"+":
                return rest
            case b"-":
                raise RespError(rest.decode(errors="replace"))
            case b":":
                return int(rest)
            case b"$":
                return None if rest == b"-1" else self._answers.read(int(rest) + 2)[:-2]
            case b"*":
                return [self._answer() for _ in range(int(rest))]
        raise ConnectionError("the connection ended, or what answers does not speak RESP")


def _connect(parts: SplitResult, timeout: float) -> socket.socket:
    host = parts.hostname or "localhost"
    plain = socket.create_connection((host, parts.port or 6379), timeout)
    if parts.scheme != "rediss":
        return plain
    import ssl  # slow to load, and rarely needed

    return ssl.create_default_context().wrap_socket(plain, server_hostname=host)


def remove_keys(url: str, prefix: str) -> None:
    """Remove every key that begins with `prefix`, which has no glob characters."""
    cursor: object = b"0"
    with RespConnection(url) as connection:
        while True:
            assert isinstance(cursor, bytes)
            answer = connection.call("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", "1000")
            assert isinstance(answer, list)
            cursor, keys = answer
            if keys:
                connection.call("UNLINK", *keys)
            if cursor == b"0":
                return
