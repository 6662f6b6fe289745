"""What a backend needs that shares circuit breakers among replicas.

The state of a breaker that a fleet shares is in two places. Each process has a circuit, which
decides about calls at once and without I/O; the backend has a `Record` for all of them. A `Fleet`
keeps the two together: it reports in the background what happened here, asks for permits of a
half-open breaker, and looks at what happened elsewhere.

A backend's adapter makes one `Fleet` of itself, returns `fleet.circuit(name, config)` from its
`circuit`, calls `fleet.wake()` once it is entered and `await fleet.close()` before it is left, and
has the three methods of `SharedBackend`. The heart is `exchange`: it merges a `Report` into what is
known, in one step that no other report comes between, and returns the `Answer`. `Report` says in
which order; while the backend is closed, `exchange` and `look` raise `OutOfContextError`.
"""

from grelmicro.resilience._fleet import Fleet, SharedBackend
from grelmicro.resilience._reports import Answer, Ask, Record, Report
from grelmicro.resilience._tickets import Says

__all__ = ["Answer", "Ask", "Fleet", "Record", "Report", "Says", "SharedBackend"]
