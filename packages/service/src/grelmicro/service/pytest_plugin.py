"""Pytest: a context of its own for every test."""

from collections.abc import Iterator

import pytest

from grelmicro.service import context


@pytest.fixture(autouse=True)
def _grelmicro_own_context() -> Iterator[None]:
    with context.entered(context.Context()):
        yield
