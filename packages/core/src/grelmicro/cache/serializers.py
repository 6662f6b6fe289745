"""Serializers: how values become the bytes that a cache stores."""

import dataclasses
import enum
import hashlib
import hmac
import json
import pickle
import zlib
from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from typing import Any, Generic, NoReturn, TypeVar
from uuid import UUID

from grelmicro.cache._contract import CacheSerializer

__all__ = [
    "CompressedSerializer",
    "JsonSerializer",
    "PickleSerializer",
    "PydanticSerializer",
    "SignedSerializer",
]

T = TypeVar("T")


class JsonSerializer:
    """JSON bytes, by orjson when it is installed and by the standard library otherwise.

    Both write the same: datetimes, dates and times in ISO 8601, UUIDs and enums by their value,
    dataclasses as objects; all of them are read back as plain JSON. A fleet may mix the two.
    Integers have 64 bits; NaN is null with orjson and refused by the standard library.
    """

    def __init__(self) -> None:
        self._dumps, self._loads = _json_functions()

    def dumps(self, value: Any) -> bytes:
        """Serialize a value.

        Raises:
            TypeError: It has something that JSON has no form for.
            ValueError: It holds itself.
        """
        return self._dumps(value)

    def loads(self, data: bytes) -> Any:
        """Read JSON bytes.

        Raises:
            ValueError: They are not JSON.
        """
        return self._loads(data)


class PickleSerializer(Generic[T]):
    """Any picklable object.

    Warning:
        To unpickle is to run code: whoever can write to the backend can run theirs. Wrap it in a
        `SignedSerializer` unless nobody else can.

    Args:
        protocol: The pickle protocol, the highest by default.
    """

    def __init__(self, *, protocol: int = pickle.HIGHEST_PROTOCOL) -> None:
        self._protocol = protocol

    def dumps(self, value: T) -> bytes:
        """Serialize a value."""
        return pickle.dumps(value, self._protocol)

    def loads(self, data: bytes) -> T:
        """Make the value again."""
        value: T = pickle.loads(data)  # noqa: S301  # what this serializer was chosen for
        return value


class PydanticSerializer(Generic[T]):
    """Typed values, written and validated by pydantic.

    Args:
        model: A model, a dataclass, a TypedDict, or anything else that a `TypeAdapter` takes.
    """

    def __init__(self, model: type[T]) -> None:
        from pydantic import TypeAdapter  # heavy; only who uses it pays

        self._adapter = TypeAdapter(model)

    def dumps(self, value: T) -> bytes:
        """Serialize a value to JSON bytes."""
        return self._adapter.dump_json(value)

    def loads(self, data: bytes) -> T:
        """Validate JSON bytes as the model."""
        return self._adapter.validate_json(data)


class SignedSerializer(Generic[T]):
    """Another serializer's bytes behind an HMAC-SHA256, which is checked before they are read.

    It proves that somebody who knows the secret wrote them, not for which key they did.

    Args:
        inner: The serializer to protect.
        secret: At least 16 bytes; or several, of which the first signs and all are accepted, so
            that a secret can be replaced without losing what is cached.

    Raises:
        ValueError: A secret is missing or too short.
    """

    def __init__(
        self, inner: CacheSerializer[T], secret: str | bytes | Sequence[str | bytes]
    ) -> None:
        secrets = [secret] if isinstance(secret, str | bytes) else list(secret)
        self._inner = inner
        self._secrets = [each.encode() if isinstance(each, str) else each for each in secrets]
        if not self._secrets or min(map(len, self._secrets)) < _SHORTEST_SECRET:
            raise ValueError(f"secret: at least {_SHORTEST_SECRET} bytes are needed")

    def dumps(self, value: T) -> bytes:
        """Serialize and sign a value."""
        data = self._inner.dumps(value)
        return _signature(self._secrets[0], data) + data

    def loads(self, data: bytes) -> T:
        """Check the signature, then make the value again.

        Raises:
            ValueError: The signature is missing or wrong.
        """
        signature, signed = data[:_SIGNATURE_SIZE], data[_SIGNATURE_SIZE:]
        if not any(
            hmac.compare_digest(signature, _signature(secret, signed)) for secret in self._secrets
        ):
            raise ValueError("the signature is missing or wrong")
        return self._inner.loads(signed)

    def __repr__(self) -> str:
        return f"SignedSerializer({self._inner!r}, secret='**********')"


class CompressedSerializer(Generic[T]):
    """Another serializer's bytes, deflated where that makes them smaller.

    Args:
        inner: The serializer whose bytes to compress.
        level: From 1, fastest, to 9, smallest.
        min_size: Bytes below which nothing is compressed.
        max_size: Bytes above which nothing is stored or inflated, so that a poisoned entry cannot
            fill the memory.
    """

    def __init__(
        self,
        inner: CacheSerializer[T],
        *,
        level: int = 6,
        min_size: int = 128,
        max_size: int = 64 * 1024 * 1024,
    ) -> None:
        if not 1 <= level <= 9:
            raise ValueError("level: from 1 to 9")
        if not 0 <= min_size <= max_size:
            raise ValueError("min_size: from 0 to max_size")
        self._inner = inner
        self._level = level
        self._min_size = min_size
        self._max_size = max_size

    def dumps(self, value: T) -> bytes:
        """Serialize and compress a value.

        Raises:
            ValueError: It takes more than `max_size` bytes before compression.
        """
        data = self._inner.dumps(value)
        if len(data) > self._max_size:
            raise ValueError(f"{len(data)} bytes are more than max_size={self._max_size}")
        if len(data) >= self._min_size:
            packed = zlib.compress(data, self._level)
            if len(packed) < len(data):
                return _DEFLATED + packed
        return _AS_IT_IS + data

    def loads(self, data: bytes) -> T:
        """Inflate, then make the value again.

        Raises:
            ValueError: The bytes are no such entry, or inflate to more than `max_size`.
        """
        mark, packed = data[:1], data[1:]
        if mark == _AS_IT_IS:
            return self._inner.loads(packed)
        if mark != _DEFLATED:
            raise ValueError("not an entry of a CompressedSerializer")
        return self._inner.loads(self._inflated(packed))

    def _inflated(self, packed: bytes) -> bytes:
        inflater = zlib.decompressobj()
        data = inflater.decompress(packed, self._max_size + 1)
        if not inflater.eof or len(data) > self._max_size:
            raise ValueError("the entry is cut short, or larger than max_size")
        return data


_SHORTEST_SECRET = 16
_SIGNATURE_SIZE = hashlib.sha256().digest_size
_AS_IT_IS, _DEFLATED = b"\x00", b"\x01"


def _signature(secret: bytes, data: bytes) -> bytes:
    return hmac.digest(secret, data, hashlib.sha256)


def _json_functions() -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    try:
        import orjson  # optional
    except ImportError:
        return _standard_dumps, json.loads

    options = orjson.OPT_NON_STR_KEYS

    def dumps(value: Any) -> bytes:
        return orjson.dumps(value, _refuse, options)

    return dumps, orjson.loads


def _standard_dumps(value: Any) -> bytes:
    text = json.dumps(
        value, default=_plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    return text.encode()


def _plain(value: Any) -> Any:
    """A JSON form of what the standard library has none for, as orjson would write it."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, UUID):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return _refuse(value)


def _refuse(value: Any) -> NoReturn:
    name = type(value).__name__
    raise TypeError(
        f"{name} is not JSON serializable: PydanticSerializer writes models and types, "
        f"such as {name} or list[{name}]"
    )
