"""Listening sockets, and the references that name them."""

import errno
import os
import secrets
import socket
import stat
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

__all__ = ["Address", "Listeners", "listen", "parse", "unique", "uri"]

_BACKLOG = 2048
"""Connections that may wait; the system may allow fewer."""


class Address(NamedTuple):
    """Where to listen."""

    family: socket.AddressFamily
    host: str
    """Or the absolute path of a Unix socket."""
    port: int = 0


class Listeners:
    """Sockets that listen, by the references they were asked for with.

    A Unix socket is bound under a name of its own, and renamed when it listens: nobody ever finds
    it deaf, what was there before is replaced in one step, and whoever unlinks the path of a socket
    that it closes, as Python 3.13 does by default, unlinks nothing.
    """

    def __init__(self) -> None:
        self.named: dict[str, socket.socket] = {}
        self._by_address: dict[Address, socket.socket] = {}
        self._files: dict[str, tuple[int, int]] = {}

    def take(self, inherited: socket.socket) -> None:
        """Take over a socket that somebody else has bound."""
        inherited.set_inheritable(False)
        self._by_address[parse(uri(inherited))] = inherited
        self.named[uri(inherited)] = inherited

    def open(self, reference: str, address: Address) -> None:
        """Listen at an address, unless one of the sockets does.

        Raises:
            OSError: It cannot be done; the message has the reference.
        """
        if address not in self._by_address:
            with _told_of(reference):
                self._by_address[address] = self._bound(address)
        self.named[reference] = self._by_address[address]

    def addresses(self) -> list[str]:
        """Where they listen, with the ports that the system has chosen."""
        paths = {self._by_address[Address(socket.AF_UNIX, path)]: path for path in self._files}
        found = self._by_address.values()
        return [f"unix://{paths[each]}" if each in paths else uri(each) for each in found]

    def close(self) -> None:
        """Close them; other processes that have them may still accept."""
        for each in self._by_address.values():
            each.close()

    def unlink(self) -> None:
        """Remove the files of Unix sockets, unless they are somebody else's by now."""
        for path, identity in self._files.items():
            if _identity(path) == identity:
                os.unlink(path)
        self._files.clear()

    def _bound(self, address: Address) -> socket.socket:
        if address.family != socket.AF_UNIX:
            place = (address.host, address.port)
            return socket.create_server(place, family=address.family, backlog=_BACKLOG)
        with _locked(os.path.dirname(address.host)):
            _check_that_nobody_listens(address.host)
            bound = _bound_file(address.host)
        self._files[address.host] = _identity(address.host) or (0, 0)
        return bound


def listen(
    references: Iterable[str], inherited: Callable[[], Iterable[socket.socket]] = tuple
) -> Listeners:
    """Listen wherever references say; two that mean the same are one socket.

    Args:
        references: See `parse`.
        inherited: Gives sockets that listen already, to be owned by the result. A reference to the
            address of one means that one.

    Raises:
        ValueError: A reference is none; nothing was opened.
        OSError: One of them cannot be listened at; the message has it, and nothing is left open.
    """
    addresses = {reference: parse(reference) for reference in references}
    found = Listeners()
    try:
        for each in inherited():
            found.take(each)
        for reference, address in addresses.items():
            found.open(reference, address)
    except BaseException:
        found.close()
        found.unlink()
        raise
    return found


def parse(reference: str) -> Address:
    """Read a reference: `tcp://host:port`, `tcp://[ipv6]:port` or `unix:///path`.

    Without a host, it means all IPv4 addresses, and `[::]` all IPv6 addresses. Port 0 leaves the
    port to the system.

    Raises:
        ValueError: It is something else.
    """
    scheme, _, rest = reference.partition("://")
    if scheme == "unix" and rest and "\0" not in rest:
        return Address(socket.AF_UNIX, os.path.abspath(rest))
    try:
        parts = urlsplit(reference)
        port = parts.port
    except ValueError:
        port = None
    if scheme != "tcp" or port is None or rest != parts.netloc or "@" in rest:
        raise ValueError(
            f"the socket {reference!r}: use tcp://host:port, tcp://[ipv6]:port or unix:///path"
        )
    host = parts.hostname or "0.0.0.0"  # noqa: S104 - it is what was asked for
    return Address(socket.AF_INET6 if ":" in host else socket.AF_INET, host, port)


def uri(sock: socket.socket) -> str:
    """The reference of the address that a socket has."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix://{name}"
    host = f"[{name[0]}]" if sock.family == socket.AF_INET6 else name[0]
    return f"tcp://{host}:{name[1]}"


def unique(named: Mapping[Any, socket.socket]) -> list[socket.socket]:
    """The sockets, each once."""
    return [*dict.fromkeys(named.values())]


@contextmanager
def _told_of(reference: str) -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        number = error.errno if isinstance(error.errno, int) else errno.EINVAL
        raise OSError(number, f"the socket {reference!r}: {why}") from None


@contextmanager
def _locked(folder: str) -> Generator[None, None, None]:
    """Let one process at a time replace a file in a folder."""
    import fcntl

    opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _check_that_nobody_listens(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "there is a file that is no socket; it was left alone")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return  # whoever has left it is gone
        except BlockingIOError:
            pass  # somebody has a long queue
    raise OSError(errno.EADDRINUSE, "another process listens there")


def _bound_file(path: str) -> socket.socket:
    private = os.path.join(os.path.dirname(path), f".{secrets.token_hex(4)}")
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(private)
        try:
            bound.listen(_BACKLOG)
            os.rename(private, path)
        except BaseException:
            os.unlink(private)
            raise
    except BaseException:
        bound.close()
        raise
    return bound


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
