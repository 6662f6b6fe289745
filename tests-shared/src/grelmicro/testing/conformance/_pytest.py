"""Clauses as tests of pytest, and what is told of them at the end."""

import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from grelmicro.errors import DependencyNotFoundError
from grelmicro.testing.conformance._finding import installed, subject_of
from grelmicro.testing.conformance._kit import Clause, clauses, run_bounded, version_of
from grelmicro.testing.conformance._results import (
    Outcome,
    Result,
    badge,
    dumps,
    report,
    table,
    worst,
)
from grelmicro.testing.conformance._subject import Capability, Subject
from grelmicro.testing.servers import ServerUnavailableError

__all__ = ["Kit", "Openings", "Reporter", "conform", "hold"]

_PROPERTY = "grelmicro.conformance"
_OPENING = 20.0
"""Seconds that a subject has to open, answer a ping and close."""


class Openings:
    """Whether subjects open at all, which is told once."""

    def __init__(self, *, required: bool) -> None:
        self._required = required
        self._errors: dict[str, BaseException | None] = {}

    def check(self, subject: Subject) -> None:
        """Go on with a subject that opens; fail, or skip, for another."""
        if subject.name in self._errors:
            if self._errors[subject.name] is not None:
                pytest.skip(f"{subject.name} does not open, as was told already")
            return
        error = self._errors[subject.name] = _error_of_opening(subject)
        if error is None:
            return
        told = f"{subject.name} does not open: {type(error).__name__}: {error}"
        if _is_reachable(subject) or self._required:
            raise pytest.fail.Exception(told, pytrace=False) from error
        pytest.skip(f"{told} (--require makes this a failure)")


def _error_of_opening(subject: Subject) -> BaseException | None:
    async def look() -> None:
        async with subject.open("provider") as provider:
            if subject.offers("provider", Capability.PING):
                await provider.ping()

    try:
        run_bounded(look, _OPENING)
    except Exception as error:
        return error
    return None


def _is_reachable(subject: Subject) -> bool:
    """Whether somebody listens where its server should be; assumed where that is not known."""
    where = urlsplit(subject.endpoint)
    if not (where.hostname and where.port):
        return True
    try:
        socket.create_connection((where.hostname, where.port), timeout=2).close()
    except OSError:
        return False
    return True


def _tests_of(subject: Subject, wanted: Callable[[Clause], bool]) -> list[Any]:
    """The parameters of a subject's tests: its clauses, those that it waived marked."""
    return [
        pytest.param(
            subject,
            clause,
            id=f"{subject.name}-{clause.id}",
            marks=[pytest.mark.xfail(reason=subject.waived[clause.id], strict=True)]
            if clause.id in subject.waived
            else [],
        )
        for clause in clauses()
        if clause.offered_by(subject) and wanted(clause)
    ]


def conform(*subjects: Subject) -> Callable[..., None]:
    """Make a test of pytest that holds backends to all that they promise.

        test_promises = conform(subject)

    Args:
        subjects: What is to be tested. Each opens and closes for every clause.
    """
    parameters = [each for subject in subjects for each in _tests_of(subject, lambda _: True)]

    @pytest.mark.parametrize(("subject", "clause"), parameters)
    def test(
        subject: Subject,
        clause: Clause,
        conformance_openings: Openings,
        record_property: Callable[[str, object], None],
    ) -> None:
        hold(subject, clause, conformance_openings, record_property)

    return test


def hold(
    subject: Subject | Exception,
    clause: Clause,
    openings: Openings,
    record_property: Callable[[str, object], None],
) -> None:
    """What a test does: hold a subject to a clause, and note that for the report.

    Instead of a subject that cannot be made there is its error.
    """
    if isinstance(subject, Exception):
        told = f"the provider, or an adapter of it, cannot be made: {type(subject).__name__}"
        raise pytest.fail.Exception(f"{told}: {subject}", pytrace=False) from subject
    record_property(_PROPERTY, (subject.name, clause.id))
    openings.check(subject)
    clause.check(subject)


class Kit:
    """The run that `pytest --pyargs grelmicro.testing.conformance` asks for.

    Args:
        config: With the options of the plugin.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._stack = ExitStack()
        self.tests: list[Any] = []
        """The parameters of all tests."""
        self.subjects: list[Subject] = []
        """What was found, also what offers nothing that is asked for."""
        self._names = config.getoption("provider") or installed()
        self._level = config.getoption("level")
        self._fast = config.getoption("conformance_fast")
        self._required = config.getoption("require")

    def prepare(self) -> None:
        """Find what is to be tested; servers are started for it.

        Raises:
            UsageError: Something is not there.
        """
        self.tests = [each for name in self._names for each in self._tests_of(name)]

    def _tests_of(self, name: str) -> list[Any]:
        try:
            subject = self._stack.enter_context(subject_of(name))
        except ServerUnavailableError as error:
            is_failure = self._required or error.required
            return [
                pytest.param(None, None, id=f"{name}-server", marks=_not_had(error, is_failure))
            ]
        except (DependencyNotFoundError, ValueError) as error:
            raise pytest.UsageError(f"--provider {name}: {error}") from None
        except Exception as error:  # of a stranger's code, which must not end the run of others
            return [_not_made(name, error)]
        if self._level is not None:
            subject = replace(subject, level=min(subject.level, self._level, key=version_of))
        try:
            tests = _tests_of(subject, lambda clause: not (self._fast and clause.slow))
        except Exception as error:  # from its factories, whose adapters are asked what they have
            return [_not_made(name, error)]
        self.subjects.append(subject)
        return tests

    def close(self) -> None:
        """End what was started."""
        self._stack.close()


def _not_made(name: str, error: Exception) -> Any:
    """The parameters of the one test of a backend that cannot be made."""
    return pytest.param(error, None, id=f"{name}-making")


def _not_had(error: Exception, is_failure: bool) -> Any:
    if is_failure:
        raise pytest.UsageError(str(error))
    return pytest.mark.skip(reason=str(error))


class Reporter:
    """A plugin of pytest that gathers what came of clauses.

    Args:
        config: With the options of the plugin.
        kit: The run of all clauses, if that is what was asked for, so that the table is wanted.
    """

    def __init__(self, config: pytest.Config, kit: Kit | None) -> None:
        self._report_to = config.getoption("conformance_report")
        self._badge_to = config.getoption("conformance_badge")
        self._kit = kit
        self._subjects: dict[str, Subject] = {}
        self._results: list[Result] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note what is under test."""
        self._subjects = {each.name: each for each in self._kit.subjects} if self._kit else {}
        for item in session.items:
            subject = getattr(getattr(item, "callspec", None), "params", {}).get("subject")
            if isinstance(subject, Subject):
                self._subjects[subject.name] = subject

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what came of a clause."""
        named: Any = dict(report.user_properties).get(_PROPERTY)
        if named is None or (report.when != "call" and report.passed):
            return
        subject, clause = named
        outcome = _outcome(report)
        why = "" if outcome is Outcome.KEPT else _why(report)
        self._results.append(Result(subject, clause, outcome, report.duration, why))

    def pytest_sessionfinish(self) -> None:
        """Write what was asked for."""
        made = report([*self._subjects.values()], self._results)
        if self._report_to:
            Path(self._report_to).write_text(dumps(made))
        if self._badge_to:
            Path(self._badge_to).write_text(dumps(badge(made)))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show what is kept, by kind and promise."""
        if not (self._kit and self._subjects):
            return
        terminalreporter.section("promises")
        made = report([*self._subjects.values()], self._results)
        terminalreporter.write(table([made]))
        for results in worst(self._results).values():
            for each in results.values():
                if each.outcome > Outcome.KEPT:
                    terminalreporter.line(
                        f"{each.subject}: {each.clause} {each.outcome.text}: {each.why}"
                    )


def _outcome(report: pytest.TestReport) -> Outcome:
    if report.passed:
        return Outcome.KEPT
    if report.failed:
        return Outcome.BROKEN
    return Outcome.WAIVED if hasattr(report, "wasxfail") else Outcome.NOT_RUN


def _why(report: pytest.TestReport) -> str:
    """The first line of what is told of it."""
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail).removeprefix("reason: ")
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr).partition("\n")[0]
