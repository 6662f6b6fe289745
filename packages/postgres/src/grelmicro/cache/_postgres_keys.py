"""What a key is in the table: bytes that an index takes, in the order of the keys' own bytes."""

from hashlib import sha256

__all__ = ["Stored", "beyond", "head", "stored"]

LONGEST = 1000
"""Bytes of an indexed key; the server's own limit is 2704."""

_HEAD = LONGEST - sha256().digest_size

Stored = tuple[bytes, bytes | None]
"""The indexed key, and the whole name where that is longer."""


def stored(name: bytes) -> Stored:
    """How a name is stored: as it is, or its beginning with a digest of all of it.

    A name as it is has fewer bytes than `LONGEST`, and the other form exactly as many: no two meet.
    """
    if len(name) < LONGEST:
        return name, None
    return name[:_HEAD] + sha256(name).digest(), name


def head(name: bytes) -> bytes:
    """What the indexed key of every name begins with that begins with this one."""
    return name[:_HEAD]


def beyond(beginning: bytes) -> bytes:
    """The first bytes, in order, that come after everything with this beginning.

    Of UTF-8, as of a prefix that ends in a NUL, no byte is 255: the last one can be raised.
    """
    return beginning[:-1] + bytes([beginning[-1] + 1])
