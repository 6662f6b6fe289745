"""What every backend promises, as clauses that any backend can be held to.

    for clause in clauses("cache"):
        if clause.offered_by(subject):
            clause.check(subject)

A clause runs its coroutine on an event loop of its own, so that no async plugin is needed and none
is in the way.
"""

from grelmicro.testing.conformance._kit import BrokenPromiseError, Clause, clause, clauses
from grelmicro.testing.conformance._subject import Capability, Subject

__all__ = ["BrokenPromiseError", "Capability", "Clause", "Subject", "clause", "clauses"]
