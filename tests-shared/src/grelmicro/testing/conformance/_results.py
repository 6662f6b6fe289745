"""What came of clauses: results, reports in JSON, badges and tables."""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from importlib.metadata import version
from typing import Any

from grelmicro.testing.conformance._kit import clauses
from grelmicro.testing.conformance._subject import Subject

__all__ = ["Outcome", "Result", "badge", "report", "table", "worst"]

_FORMAT = 1
"""The version of the report's form."""

_SIGNS = {"kept": "yes", "broken": "**no**", "waived": "waived", "not offered": "-", "not run": "?"}


class Outcome(IntEnum):
    """What came of a clause, from good to bad."""

    NOT_OFFERED = 0
    KEPT = 1
    WAIVED = 2
    NOT_RUN = 3
    BROKEN = 4

    @property
    def text(self) -> str:
        """As reports say it."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Result:
    """What came of one clause on one subject."""

    subject: str
    clause: str
    outcome: Outcome
    seconds: float = 0.0
    why: str = ""


def worst(results: Iterable[Result]) -> dict[str, dict[str, Result]]:
    """The worst result of each clause, by subject: one that was run more than once has several."""
    found: dict[str, dict[str, Result]] = {}
    for result in results:
        known = found.setdefault(result.subject, {})
        if result.clause not in known or result.outcome > known[result.clause].outcome:
            known[result.clause] = result
    return found


def report(subjects: Sequence[Subject], results: Iterable[Result]) -> dict[str, Any]:
    """Make the report: every clause on every subject, those too that were not offered or not run.

    Args:
        subjects: What was under test.
        results: What came of it.
    """
    known = worst(results)
    return {
        "format": _FORMAT,
        "kit": version("grelmicro-testing"),
        "python": platform.python_version(),
        "backends": [_backend(subject, known.get(subject.name, {})) for subject in subjects],
    }


def _backend(subject: Subject, results: Mapping[str, Result]) -> dict[str, Any]:
    provider = type(subject.provider())
    return {
        "name": subject.name,
        "provider": f"{provider.__module__}.{provider.__qualname__}",
        "level": subject.level,
        "kinds": list(subject.provider().supports),
        "clauses": {each.id: _entry(subject, each, results.get(each.id)) for each in clauses()},
    }


def _entry(subject: Subject, clause: Any, result: Result | None) -> dict[str, Any]:
    if result is None:
        offered = clause.offered_by(subject)
        return {"outcome": (Outcome.NOT_RUN if offered else Outcome.NOT_OFFERED).text}
    entry: dict[str, Any] = {"outcome": result.outcome.text, "seconds": round(result.seconds, 4)}
    return entry | {"why": result.why} if result.why else entry


def badge(reported: Mapping[str, Any]) -> dict[str, Any]:
    """What shields.io shows of a report: an endpoint's answer."""
    found = [e["outcome"] for each in reported["backends"] for e in each["clauses"].values()]
    broken, kept = found.count("broken"), found.count("kept")
    missing = found.count("not run")
    message = f"{broken} broken" if broken else f"{kept} promises kept"
    color = "red" if broken else "yellow" if missing or "waived" in found else "brightgreen"
    return {"schemaVersion": 1, "label": "grelmicro", "message": message, "color": color}


def table(reports: Sequence[Mapping[str, Any]]) -> str:
    """Make the matrix of what several backends keep, in Markdown.

    A row is a group of promises, such as `cache.get`: `yes` where all that a backend offers of it
    are kept, else what is wrong; the number of those that it does not offer is told.

    Args:
        reports: Reports as they were read from their files.
    """
    backends = [backend for each in reports for backend in each["backends"]]
    groups = dict.fromkeys(_group(clause) for each in backends for clause in each["clauses"])
    head = ["promises", *(backend["name"] for backend in backends)]
    lines = [_row(head), _row(["---"] * len(head))]
    for group in groups:
        lines.append(_row([f"`{group}`", *(_cell(backend, group) for backend in backends)]))
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _group(clause: str) -> str:
    return ".".join(clause.split(".")[:2])


def _cell(backend: Mapping[str, Any], group: str) -> str:
    found = [e["outcome"] for id_, e in backend["clauses"].items() if _group(id_) == group]
    offered = [each for each in found if each != "not offered"]
    if not offered:
        return _SIGNS["not offered"]
    for bad in ("broken", "not run", "waived"):
        if bad in offered:
            return _SIGNS[bad]
    return "yes" if len(offered) == len(found) else f"{len(offered)} of {len(found)}"


def dumps(data: Mapping[str, Any]) -> str:
    """The text of a report or a badge."""
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
