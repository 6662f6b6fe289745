"""What a backend needs that shares circuit breakers among replicas.

The state of a breaker that a fleet shares is in two places. Each process has a circuit, which
decides about calls at once and without I/O; the backend has a `Record` for all of them. A `Fleet`
keeps the two together: it reports in the background what happened here, asks for permits of a
half-open breaker, and looks at what happened elsewhere.

A backend's adapter makes one `Fleet` of itself, returns `fleet.circuit(name, config)` from its
`circuit`, calls `fleet.wake()` once it is entered and `await fleet.close()` in `closing`, and has
the three methods of `SharedBackend`. The heart is `exchange`: it merges a `Report` into what is
known, in one step that no other report comes between, and returns the `Answer`. `Report` says in
which order; while the backend is closed, `exchange` and `look` raise `OutOfContextError`.

`numbers_of` makes numbers of a breaker's settings, for stores that merge in a language of their
own, and `check_lease` refuses a lease of permits that is no number of seconds.
"""

from grelmicro.resilience._fleet import Fleet, SharedBackend
from grelmicro.resilience._numbers import check_lease, numbers_of
from grelmicro.resilience._reports import Answer, Ask, Record, Report
from grelmicro.resilience._tickets import Says

__all__ = [
    "Answer",
    "Ask",
    "Fleet",
    "Record",
    "Report",
    "Says",
    "SharedBackend",
    "check_lease",
    "numbers_of",
]
