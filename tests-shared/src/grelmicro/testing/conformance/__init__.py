"""What every backend promises, as clauses that any backend can be held to.

    pytest --pyargs grelmicro.testing.conformance --provider acme

holds an installed provider to all of them, and `conform(subject)` makes a test of one's own.
Without pytest:

    for clause in clauses("cache"):
        if clause.offered_by(subject):
            clause.check(subject)

A clause runs its coroutine on an event loop of its own, so that no async plugin is needed and none
is in the way.
"""

from typing import TYPE_CHECKING, Any

from grelmicro.testing.conformance._kit import BrokenPromiseError, Clause, clause, clauses
from grelmicro.testing.conformance._subject import Capability, Subject

if TYPE_CHECKING:
    from grelmicro.testing.conformance._pytest import conform

__all__ = [
    "BrokenPromiseError",
    "Capability",
    "Clause",
    "Subject",
    "clause",
    "clauses",
    "conform",
]


def __getattr__(name: str) -> Any:
    if name == "conform":  # only tests need pytest
        from grelmicro.testing.conformance._pytest import conform

        return conform
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
