"""What a circuit gives to the calls that it lets through."""

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from weakref import ref

if TYPE_CHECKING:
    from grelmicro.resilience._circuit import Circuit

__all__ = ["RIDES", "Admission", "Period", "Probe", "Says", "Ticket"]


class Period:
    """A stretch of time without a change of state; the ticket of the calls it lets through.

    What ends in another period than it began in changes nothing.
    """

    __slots__ = ()


class Probe:
    """The ticket of a call that a half-open circuit lets through.

    Its permit is given back when the call ends, or when nobody knows of the call any more.

    Args:
        period: When it began.
        owner: The task or thread whose call it is.
        token: What a fleet knows it by.
    """

    __slots__ = ("__weakref__", "owner", "period", "token")

    def __init__(self, period: Period, owner: object, token: str = "") -> None:
        self.period: Period = period
        self.owner: ref[object] = ref(owner)  # a task refers to its context, and that to its probe
        self.token: str = token


class Says(IntEnum):
    """What a probe says of what is guarded."""

    NOTHING = 0
    GOOD = 1
    BAD = 2


Ticket: TypeAlias = Period | Probe

RIDES = Period()
"""The ticket of a call within a probe of the same task: the probe tells how it went."""


class Admission(NamedTuple):
    """A call that was let through."""

    circuit: "Circuit"
    ticket: Ticket
    started: float
    """When it began, by the monotonic clock; 0 where nobody measures."""
