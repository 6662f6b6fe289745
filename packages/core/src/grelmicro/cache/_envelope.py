"""What a cached function's policies keep beside a value: its cost, and the versions of its tags.

The envelope is used only by caches that have such policies. Values that happen to look like one
are wrapped as well, so that every value reads back as what it was.
"""

import struct
from typing import NamedTuple

__all__ = ["VERSION_SIZE", "Envelope", "unwrap", "wrap"]

_MAGIC = b"\x00grel\x01"
_HEAD = struct.Struct("<dB")

VERSION_SIZE = 8
"""Bytes of a tag's version; all zero where the tag was never invalidated."""


class Envelope(NamedTuple):
    """A payload with what its policies need to know."""

    payload: bytes
    cost: float = 0.0
    """Seconds that its function took."""
    versions: tuple[bytes, ...] = ()
    """The versions that its tags had before the function began."""


def wrap(envelope: Envelope) -> bytes:
    """Write an envelope, or the bare payload where there is nothing to say about it."""
    if not envelope.cost and not envelope.versions and not envelope.payload.startswith(_MAGIC):
        return envelope.payload
    head = _HEAD.pack(envelope.cost, len(envelope.versions))
    return b"".join((_MAGIC, head, *envelope.versions, envelope.payload))


def unwrap(data: bytes) -> Envelope:
    """Read what `wrap` wrote.

    Raises:
        ValueError: It was cut short.
    """
    if not data.startswith(_MAGIC):
        return Envelope(data)
    start = len(_MAGIC) + _HEAD.size
    if len(data) < start:
        raise ValueError("the envelope of the entry is cut short")
    cost, count = _HEAD.unpack_from(data, len(_MAGIC))
    end = start + count * VERSION_SIZE
    if len(data) < end:
        raise ValueError("the envelope of the entry is cut short")
    versions = tuple(data[at : at + VERSION_SIZE] for at in range(start, end, VERSION_SIZE))
    return Envelope(data[end:], cost, versions)
