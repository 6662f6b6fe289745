"""Pytest: plugins prepared for a test, and a context of its own for every test.

Fixtures `grelmicro_config_source grelmicro_context grelmicro_stage grelmicro_load
grelmicro_plugin_context`, and the marker `grelmicro_plugins(*plugins)`; a single function needs
`grelmicro_plugins.with_args(prepare)`, as pytest would decorate it. Every pytest run with
grelmicro-service loads this module, so all else loads on first use.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from grelmicro.service.context import Context
    from grelmicro.service.plugin import Loader, Stage

_MARKER = "grelmicro_plugins"
_FIXTURES = frozenset(
    ("grelmicro_context", "grelmicro_stage", "grelmicro_load", "grelmicro_plugin_context")
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(*plugins): prepare these plugins before the test, and undo that after it",
    )


@pytest.fixture
def grelmicro_config_source() -> Mapping[str, Any]:
    """The settings of the application, to be overridden; by default none.

    From a plain mapping the environment is not read; a `ConfigSource` with a prefix does that.
    """
    return {}


@pytest.fixture
def grelmicro_context(grelmicro_config_source: Mapping[str, Any]) -> Context:
    """The context that the stage stands on, with the settings as its `ConfigSource`."""
    from grelmicro.service.config import ConfigSource
    from grelmicro.service.context import Context

    context, source = Context(), grelmicro_config_source
    is_whole = isinstance(source, ConfigSource)
    context.add(source if is_whole else ConfigSource(source, env_prefix=""))
    return context


@pytest.fixture
def grelmicro_stage(grelmicro_context: Context) -> Stage:
    """The stage, which has prepared the marker's plugins when the test begins.

    What plugins want to be run is not run, and forgotten after the test. Everything is undone then.
    """
    from grelmicro.service.context import entered
    from grelmicro.service.plugin import Stage

    with entered(grelmicro_context):
        return Stage(handles_signals=False)


@pytest.fixture
def grelmicro_load(grelmicro_stage: Stage) -> Loader:
    """What loads more plugins, when it is awaited with what names them."""
    return grelmicro_stage.load


@pytest.fixture
def grelmicro_plugin_context(grelmicro_stage: Stage) -> Context:
    """The context that plugins share; it is the current one in the test."""
    return grelmicro_stage.plugin_context


@pytest.fixture(autouse=True)
def _grelmicro_own_context(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test adds to the context, the next one sees nothing of it."""
    is_staged = not _FIXTURES.isdisjoint(request.fixturenames)
    if is_staged or request.node.get_closest_marker(_MARKER) is not None:
        from grelmicro.service._testing import staged

        with staged(request):
            yield
    elif "grelmicro.service.context" in sys.modules:
        from grelmicro.service.context import Context, entered

        with entered(Context()):
            yield
    else:
        yield
