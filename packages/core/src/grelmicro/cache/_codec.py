"""From values to the bytes that a backend keeps, and back."""

import logging
from typing import Any

from grelmicro.cache._contract import CacheSerializer
from grelmicro.cache._envelope import Envelope, unwrap, wrap
from grelmicro.cache._reader import MISS, Counters

__all__ = ["Codec"]

_log = logging.getLogger("grelmicro.cache")


class Codec:
    """The serializer of one cache, with the envelopes that its policies may need.

    An entry that cannot be read is a miss and is overwritten by what is loaded next, so that a
    deploy that changes a model does not take the service down. The log tells it once.
    """

    def __init__(self, serializer: CacheSerializer[Any] | None, counters: Counters) -> None:
        self._serializer = serializer
        self._counters = counters
        self._envelopes = False
        self._warned = False
        if serializer is not None:
            counters.decode = self.decode

    def use_envelopes(self) -> None:
        """Read and write envelopes from now on."""
        self._envelopes = True
        self._counters.decode = self.decode

    def encode(self, value: Any, cost: float = 0.0, versions: tuple[bytes, ...] = ()) -> bytes:
        """Make bytes of a value.

        Raises:
            TypeError: It is not bytes, and there is no serializer.
        """
        data = self._serialized(value)
        return wrap(Envelope(data, cost, versions)) if self._envelopes else data

    def decode(self, data: bytes) -> Any:
        """Make a value of bytes, or MISS if that cannot be done."""
        return self.open(data)[0]

    def open(self, data: bytes) -> tuple[Any, Envelope]:
        """Make a value of bytes, with its envelope; MISS if that cannot be done."""
        try:
            envelope = unwrap(data) if self._envelopes else Envelope(data)
            if self._serializer is None:
                return envelope.payload, envelope
            return self._serializer.loads(envelope.payload), envelope
        except Exception as error:  # whatever a serializer makes of bytes that are not its own
            self._warn(error)
            return MISS, Envelope(b"")

    def _serialized(self, value: Any) -> bytes:
        if self._serializer is not None:
            return self._serializer.dumps(value)
        if isinstance(value, bytes):
            return value
        raise TypeError(
            f"value: {type(value).__name__} is not bytes, and the cache has no serializer: "
            "pass serializer=JsonSerializer(), PydanticSerializer(Model), ..."
        )

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            # The error's own text may quote the entry.
            _log.warning(
                "a cache entry cannot be read (%s); it counts as a miss and will be overwritten. "
                "This is said once a cache.",
                type(error).__name__,
            )
