"""What is to be known of a command before it is sent."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar, cast

import hiredis
from redis.crc import key_slot

__all__ = [
    "Args",
    "Argument",
    "by_slot",
    "check_shared",
    "is_odd",
    "literal",
    "misfit",
    "pack",
    "packed",
    "slot_of",
]

Argument = str | bytes | int | float
K = TypeVar("K", bound=str | bytes)
Args = tuple[Argument, ...]

pack: Callable[[Args], bytes] = cast("Any", hiredis.pack_command)
"""The bytes of a command; its own stub knows commands of one word only."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BLOCKING = _names("BLPOP BRPOP BLMOVE BRPOPLPUSH BLMPOP BZPOPMIN BZPOPMAX BZMPOP WAIT WAITAOF")
_STATEFUL = _names(
    "MULTI EXEC DISCARD WATCH UNWATCH SELECT AUTH HELLO QUIT RESET ASKING READONLY READWRITE"
    " SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE MONITOR SYNC PSYNC"
    " REPLCONF SHUTDOWN"
)
_STATEFUL_CLIENT = _names("CACHING NO-EVICT NO-TOUCH REPLY SETNAME TRACKING")
_ODD = _BLOCKING | _STATEFUL | {"XREAD", "XREADGROUP", "CLIENT", "SCRIPT"}
_KEYLESS = _names(
    "ACL BGREWRITEAOF BGSAVE CLIENT CLUSTER COMMAND CONFIG DBSIZE DEBUG ECHO FLUSHALL FLUSHDB"
    " FUNCTION INFO KEYS LASTSAVE LATENCY LOLWUT MODULE PING PUBLISH PUBSUB RANDOMKEY ROLE SAVE"
    " SCAN SCRIPT SLOWLOG TIME"
)
_COUNTED = _names("EVAL EVAL_RO EVALSHA EVALSHA_RO FCALL FCALL_RO")
_SECOND = _names("LMPOP MEMORY OBJECT SINTERCARD XGROUP XINFO ZDIFF ZINTER ZINTERCARD ZMPOP ZUNION")


class _Kind(NamedTuple):
    """A command's name, and the position of its first key; 0 for none."""

    name: str
    key_at: int


@lru_cache(maxsize=512, typed=True)
def _kind_of(name: Argument) -> _Kind:
    text = (name.decode(errors="replace") if isinstance(name, bytes) else str(name)).upper()
    key_at = 0 if text in _KEYLESS else 3 if text in _COUNTED else 2 if text in _SECOND else 1
    return _Kind(text, key_at)


@lru_cache(maxsize=512, typed=True)
def is_odd(name: Argument) -> bool:
    """Whether a command of that name is to be looked at by `check_shared`."""
    text = _kind_of(name).name
    return text in _ODD or not isinstance(name, str | bytes) or text.split() != [text]


def check_shared(args: Args) -> None:
    """Refuse what would block or change a connection that others use too.

    Raises:
        ValueError: It is such a command, or none at all.
    """
    if not args:
        raise ValueError("no command: give its name and its arguments")
    if not isinstance(args[0], str | bytes):
        raise misfit(args)
    name = _kind_of(args[0]).name
    if name.split() != [name]:
        raise ValueError(f"{name!r} is no name of a command: give each word by itself")
    if fault := _fault_of(name, args):
        raise ValueError(
            f"{name} {fault} the connection, which others share: "
            "use the provider's .client, where it gets a connection of its own"
        )


def _fault_of(name: str, args: Args) -> str | None:
    if name in _BLOCKING or (name.startswith("XREAD") and "BLOCK" in _words(args)):
        return "blocks"
    if name in _STATEFUL or (name == "CLIENT" and _STATEFUL_CLIENT & {*_words(args[:2])}):
        return "changes"
    if name == "SCRIPT" and "DEBUG" in _words(args[:2]):
        return "changes"
    return None


def _words(args: Args) -> list[str]:
    """The arguments that may be keywords, before the keys of `STREAMS`."""
    words: list[str] = []
    for argument in args[1:]:
        word = _word(argument)
        if word == "STREAMS":
            break
        words.append(word)
    return words


def _word(argument: Argument) -> str:
    if isinstance(argument, str | int | float):
        return str(argument).upper()
    return bytes(argument).decode(errors="replace").upper()


def packed(args: Sequence[Any]) -> bytes:
    """The bytes of a command.

    Raises:
        TypeError: An argument is neither text, bytes nor a number; says which.
    """
    try:
        return pack(tuple(args))
    except TypeError:
        raise misfit(args) from None


def misfit(args: Sequence[Any]) -> TypeError:
    """The error of a command that cannot be packed: names the argument."""
    for position, argument in enumerate(args):
        if isinstance(argument, bool) or not isinstance(argument, str | bytes | int | float):
            kind = type(argument).__name__
            return TypeError(
                f"argument {position} of {args[0]!r} is of type {kind}: "
                "give str, bytes, int or float"
            )
    return TypeError(f"the arguments of {args[0]!r} cannot be sent")


def slot_of(args: Args) -> int | None:
    """The slot of a cluster that a command's first key is in; None when it has no key.

    The position is a good guess for rare commands. A cluster that is asked in the wrong place says
    where the right one is.
    """
    position = _kind_of(args[0]).key_at
    if not position or len(args) <= position:
        return None
    if position == 3 and str(args[2]) == "0":
        return None
    return _slot(args[position])


def by_slot(keys: Iterable[K]) -> list[Sequence[K]]:
    """Keys in groups that one command of a cluster may name, in the order they came."""
    groups: dict[int, list[K]] = {}
    for key in keys:
        groups.setdefault(_slot(key), []).append(key)
    return list(groups.values())


def _slot(key: Argument) -> int:
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


def literal(text: str) -> str:
    """Take from a text the meaning that a glob pattern would give it."""
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", text)
