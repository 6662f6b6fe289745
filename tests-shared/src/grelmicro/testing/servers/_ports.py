"""TCP ports that a test's server or proxy can leave and come back to."""

import secrets
import socket

LOCALHOST = "127.0.0.1"
_FIRST, _LAST = 18_000, 32_000  # under every ephemeral range: 32768 on Linux, 49152 elsewhere


def free_port() -> int:
    """Return a local port that was free a moment ago; the caller retries where it no longer is.

    No ephemeral port: while its server is down, a client that keeps connecting could be given the
    port as its own source port, talk to itself and keep the server from coming back.
    """
    for _ in range(100):
        port = _FIRST + secrets.randbelow(_LAST - _FIRST)  # `random` may be seeded alike in workers
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOCALHOST, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port in 100 tries between {_FIRST} and {_LAST}")
