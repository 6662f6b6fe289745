"""What systemd tells a service, and wants to hear from it: sd_listen_fds(3), sd_notify(3)."""

import os
import socket

__all__ = ["Notifier", "forget", "inherited"]

_FIRST = 3


def inherited() -> list[socket.socket]:
    """The sockets that systemd has opened for this process; the caller owns them."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    return [socket.socket(fileno=number) for number in range(_FIRST, _FIRST + count)]


def forget() -> None:
    """Leave nothing of it to processes that are started from here."""
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET"):
        os.environ.pop(name, None)


class Notifier:
    """Tells systemd, if that has started this process, when the service is ready, and its end."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")

    def ready(self) -> None:
        """Say that it is ready."""
        self._send(b"READY=1")

    def stopping(self) -> None:
        """Say that it is about to end."""
        self._send(b"STOPPING=1")

    def _send(self, state: bytes) -> None:
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):  # one without a file
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            try:
                channel.sendto(state, address)
            except OSError:  # nobody listens: that is no reason not to serve
                return
