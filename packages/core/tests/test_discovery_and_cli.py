"""Finding providers, and the command line that shows them."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoints
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from grelmicro.errors import (
    BackendNotOpenError,
    DependencyNotFoundError,
    OutOfContextError,
    SettingsValidationError,
)
from grelmicro.providers import Provider, _discovery, autodiscover, available, from_url, load
from grelmicro.providers.memory import MemoryProvider


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    inherited = {name: text for name, text in os.environ.items() if name != "GRELMICRO_URL"}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_is_installed_is_found_without_importing_it() -> None:
    script = (
        "import sys; from grelmicro.providers import available; names = available()\n"
        "print(*names); print(*sys.modules)"
    )
    names, modules = run("-c", script).stdout.splitlines()
    assert names.split() == list(available()) == ["memory", "postgres", "redis"]
    assert not {"redis", "pydantic", "pydantic_settings"} & set(modules.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    modules = set(run("-c", "import sys, grelmicro; print(*sys.modules)").stdout.split())
    heavy = {"pydantic", "pydantic_settings", "redis", "asyncpg", "orjson", "importlib.metadata"}
    assert "grelmicro.app" in modules
    assert not modules & heavy


@pytest.mark.parametrize("url", ["memory://", "MEMORY://", "memory+anything://"])
def test_a_url_finds_its_provider(url: str) -> None:
    assert isinstance(from_url(url), MemoryProvider)


@pytest.mark.parametrize(
    ("scheme", "advice"),
    [
        ("postgresql", "pip install grelmicro-postgres"),
        ("postgresql+asyncpg", "pip install grelmicro-postgres"),
        ("mysql", "entry point"),
    ],
)
def test_a_missing_provider_is_named_with_the_way_out(
    scheme: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _discovery._entry_points
    monkeypatch.setattr(
        _discovery,
        "_entry_points",
        lambda group: EntryPoints(e for e in found(group) if not e.name.startswith("postgres")),
    )
    with pytest.raises(DependencyNotFoundError, match=advice) as failure:
        from_url(f"{scheme}://user:geheim@host/db")
    assert "geheim" not in str(failure.value)
    assert f"{scheme}://" in str(failure.value)
    if "+" not in scheme:
        with pytest.raises(DependencyNotFoundError, match="memory, redis"):
            load(scheme)


def test_a_provider_that_cannot_be_imported_names_its_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "grelmicro_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: grelmicro-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[grelmicro.providers]\nbroken = no_such_module:X\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DependencyNotFoundError, match=r"no_such_module.*grelmicro-broken"):
        load("broken")


def test_the_environment_names_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (None, "", "memory://"):
        monkeypatch.setenv("GRELMICRO_URL", url or "")
        assert isinstance(autodiscover(), MemoryProvider)
    monkeypatch.setenv("GRELMICRO_URL", "localhost:6379")
    with pytest.raises(ValueError, match="scheme://") as failure:
        autodiscover()
    assert "GRELMICRO_URL" in failure.value.__notes__[0]


async def test_a_provider_needs_next_to_nothing() -> None:
    class Nothing(Provider):
        short_name = "nothing"

    async with Nothing() as provider:
        assert provider.supports == ()
        assert repr(provider) == "Nothing()"
        factories = {
            "sync": "Sync",
            "cache": "Cache",
            "ratelimiter": "RateLimit",
            "breaker": "Breaker",
        }
        for factory, component in factories.items():
            message = rf"Nothing has no \w+ adapter\. Pass a \w+ instance to {component}\(\.\.\.\)"
            with pytest.raises(NotImplementedError, match=message):
                getattr(provider, factory)()
        with pytest.raises(NotImplementedError):
            await provider.ping()


def test_a_rejected_value_is_not_shown() -> None:
    class Settings(BaseModel):
        password: int

    try:
        Settings.model_validate({"password": "geheim"})
    except ValidationError as error:
        shown = str(SettingsValidationError(error))
    assert shown.startswith("password: ")
    assert "geheim" not in shown


def test_a_backend_that_is_not_open_is_what_seeds_and_contract_say() -> None:
    assert issubclass(BackendNotOpenError, AttributeError)
    assert issubclass(BackendNotOpenError, OutOfContextError)


def test_the_command_line_lists_and_checks() -> None:
    listed = run("-m", "grelmicro", "providers")
    assert listed.stdout.splitlines() == [
        "memory    cache, sync, ratelimiter, circuitbreaker",
        "postgres  cache, sync, ratelimiter, circuitbreaker",
        "redis     cache, sync, ratelimiter, circuitbreaker",
    ]
    checked = run("-m", "grelmicro", "check")
    assert (checked.returncode, "memory://" in checked.stdout) == (0, True)
    url = "redis://user:geheim@127.0.0.1:1/0"
    for failed in (
        run("-m", "grelmicro", "check", url),
        run("-m", "grelmicro", "check", GRELMICRO_URL=url),
    ):
        assert failed.returncode == 1
        assert failed.stderr.startswith("failed: ")
        assert "geheim" not in failed.stdout + failed.stderr
    assert run("-m", "grelmicro").returncode == 2


def test_the_statements_that_make_a_backends_tables() -> None:
    made = run("-m", "grelmicro", "ddl", "postgres")
    assert (made.returncode, made.stderr) == (0, "")
    assert 'CREATE UNLOGGED TABLE IF NOT EXISTS "cache"' in made.stdout
    assert 'CREATE TABLE IF NOT EXISTS "locks"' in made.stdout


@pytest.mark.parametrize(
    ("name", "fault"), [("memory", "makes no tables"), ("nothing", "no provider")]
)
def test_what_has_no_tables(name: str, fault: str) -> None:
    refused = run("-m", "grelmicro", "ddl", name)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert fault in refused.stderr
