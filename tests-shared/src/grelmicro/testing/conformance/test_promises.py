"""What `pytest --pyargs grelmicro.testing.conformance` runs: all clauses of the backends named."""

from collections.abc import Callable

import pytest

from grelmicro.testing.conformance._kit import Clause
from grelmicro.testing.conformance._pytest import Openings, hold
from grelmicro.testing.conformance._subject import Subject
from grelmicro.testing.plugin import KIT


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of every clause that a backend offers."""
    metafunc.parametrize(("subject", "clause"), metafunc.config.stash[KIT].tests)


def test_kept(
    subject: Subject,
    clause: Clause,
    conformance_openings: Openings,
    record_property: Callable[[str, object], None],
) -> None:
    """A backend keeps a promise."""
    hold(subject, clause, conformance_openings, record_property)
