"""The kit as strangers run it: `pytest --pyargs`, from an empty folder, on what is installed."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from grelmicro.providers.memory import MemoryProvider
from grelmicro.testing.conformance import Capability, Subject, clauses
from grelmicro.testing.conformance._results import Outcome, Result, badge, report, table

ACME = """
from grelmicro.cache.memory import MemoryCacheAdapter
from grelmicro.providers import Provider
from grelmicro.testing.conformance import Capability, Subject, clause


class Store(MemoryCacheAdapter):
    async def set(self, *, key, value, ttl):
        await super().set(key=key, value=value, ttl=ttl)


class NeverExpires(Store):
    async def set(self, *, key, value, ttl):
        await super().set(key=key, value=value, ttl=1e6)


class AcmeProvider(Provider):
    short_name = "acme"
    adapter = Store

    def cache(self, **_):
        return self.adapter()


class Forgetful(AcmeProvider):
    adapter = NeverExpires


class Crashes(AcmeProvider):
    async def __aenter__(self):
        raise RuntimeError("the licence has run out")


class Unlicensed(AcmeProvider):
    def __init__(self):
        raise RuntimeError("no licence")


class OutOfStores(AcmeProvider):
    def cache(self, **_):
        raise RuntimeError("no stores")


def waived(*clauses):
    return Subject("acme", Forgetful, waived=dict.fromkeys(clauses, "it is made of stone"))


def kept_though_waived():
    return waived("cache.get.missing")


def stone():
    return waived(*STONE)


def away():
    return Subject("acme", Crashes, endpoint="acme://127.0.0.1:1")


class Untouchable(AcmeProvider):
    def cache(self, **_):
        store = Store()
        store.touch = None
        return store


def modest():
    return Subject("acme", Untouchable)


def claims():
    return Subject("acme", Untouchable, declares=frozenset({Capability.TOUCH}))


def of_a_later_kit():
    @clause("cache.acme.later", since="1.10")
    async def later(cache):
        "It does what nobody asked for before. Mend it so. Or so."

    return Subject("acme", AcmeProvider, level="1.10")


STONE = (
    "cache.set.expires", "cache.set.expires_in_time", "cache.set.one_millisecond",
    "cache.set.shortens",
)
"""


def install(folder: Path, provider: str = "AcmeProvider", subject: str | None = None) -> None:
    """Lay a distribution out as an installer would."""
    (folder / "acme.py").write_text(ACME)
    info = folder / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    entries = f"[grelmicro.providers]\nacme = acme:{provider}\n"
    if subject:
        entries += f"[grelmicro.conformance]\nacme = acme:{subject}\n"
    (info / "entry_points.txt").write_text(entries)


def run(folder: Path, *arguments: str, code: int = 0) -> tuple[str, dict[str, Any]]:
    """Run pytest in a folder of its own; what it printed, and the report's entries by clause."""
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio", "-q"),
            *("-p", "no:anyio", "--conformance-report", "../report.json", *arguments),
        ],
        cwd=empty,
        env=os.environ | {"PYTHONPATH": str(folder), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == code, printed
    path = folder / "report.json"
    if not path.exists():
        return printed, {}
    backends = json.loads(path.read_text())["backends"]
    return printed, backends[0]["clauses"] if backends else {}


def kit(folder: Path, *arguments: str, code: int = 0) -> tuple[str, dict[str, Any]]:
    given = arguments or ("--provider", "acme")
    return run(folder, "--pyargs", "grelmicro.testing.conformance", *given, code=code)


def with_outcome(entries: Mapping[str, Any], outcome: str) -> set[str]:
    return {name for name, entry in entries.items() if entry["outcome"] == outcome}


def test_a_stranger_that_keeps_all(tmp_path: Path) -> None:
    install(tmp_path)
    printed, entries = kit(tmp_path)
    assert "| `cache.get` | yes |" in printed
    assert with_outcome(entries, "broken") == with_outcome(entries, "not run") == set()
    not_offered = with_outcome(entries, "not offered")
    assert {"cache.clear.spares_others", "sync.acquire.excludes"} <= not_offered
    assert "cache.set.expires" in with_outcome(entries, "kept")


def test_a_stranger_that_breaks_some(tmp_path: Path) -> None:
    install(tmp_path, "Forgetful")
    asked = ("--provider", "acme", "-k", "cache.set.expires or cache.get.missing")
    printed, entries = kit(tmp_path, *asked, code=1)
    assert "acme: cache.set.expires broken: " in printed
    assert "An entry is gone when its time is over" in printed or "acme breaks" in printed
    assert "cache.set.expires" in with_outcome(entries, "broken")
    assert "cache.get.missing" in with_outcome(entries, "kept")
    assert "an entry is there" in entries["cache.set.expires"]["why"]


def test_waivers(tmp_path: Path) -> None:
    install(tmp_path, "Forgetful", "stone")
    _, entries = kit(tmp_path, "--provider", "acme", "-k", "cache.set")
    waived = with_outcome(entries, "waived")
    assert "cache.set.expires" in waived
    assert entries["cache.set.expires"]["why"] == "it is made of stone"


def test_a_waiver_of_what_is_kept_fails(tmp_path: Path) -> None:
    install(tmp_path, "Forgetful", "kept_though_waived")
    printed, entries = kit(tmp_path, "--provider", "acme", "-k", "get.missing", code=1)
    assert with_outcome(entries, "broken") == {"cache.get.missing"}
    assert "it is made of stone" in printed


def test_what_is_not_there_is_not_asked_for_and_broken_when_it_is_declared(tmp_path: Path) -> None:
    touched = {each.id for each in clauses("cache") if Capability.TOUCH in each.needs}
    assert touched
    install(tmp_path, subject="modest")
    _, entries = kit(tmp_path)
    assert touched <= with_outcome(entries, "not offered")
    again = tmp_path / "again"
    again.mkdir()
    install(again, subject="claims")
    _, entries = kit(again, code=1)
    assert with_outcome(entries, "broken") == touched


def test_a_crash_while_opening_is_told_once(tmp_path: Path) -> None:
    install(tmp_path, "Crashes")
    printed, entries = kit(tmp_path, code=1)
    assert printed.count("acme does not open: RuntimeError: the licence has run out") <= 3
    assert len(with_outcome(entries, "broken")) == 1
    assert len(with_outcome(entries, "not run")) > 20


@pytest.mark.parametrize(
    ("provider", "error"), [("Unlicensed", "no licence"), ("OutOfStores", "no stores")]
)
def test_what_cannot_be_made_is_told_once(provider: str, error: str, tmp_path: Path) -> None:
    install(tmp_path, provider)
    printed, _ = kit(
        tmp_path, "--provider", "acme", "--provider", "memory", "-k", "short_name or making", code=1
    )
    assert f"cannot be made: RuntimeError: {error}" in printed
    assert "1 failed, " in printed
    assert "INTERNALERROR" not in printed
    assert "| `provider.short_name` | yes |" in printed  # of the other one


def test_a_server_that_is_away_is_skipped_or_required(tmp_path: Path) -> None:
    install(tmp_path, "Crashes", "away")
    printed, entries = kit(tmp_path)
    assert "--require makes this a failure" in printed
    assert with_outcome(entries, "broken") == set()
    _, entries = kit(tmp_path, "--provider", "acme", "--require", code=1)
    assert len(with_outcome(entries, "broken")) == 1


@pytest.mark.parametrize("url", ["redis://localhost:1/0", "postgresql://postgres@localhost:1/x"])
def test_a_url_where_nobody_is_is_skipped(url: str, tmp_path: Path) -> None:
    printed, entries = kit(tmp_path, "--provider", url, "-k", "cache.get", code=0)
    assert "does not open: " in printed
    assert "--require makes this a failure" in printed
    assert with_outcome(entries, "not run")
    assert with_outcome(entries, "broken") == set()


def test_an_unknown_name_is_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    printed, _ = kit(tmp_path, "--provider", "acme", code=4)
    assert "--provider acme: no provider called 'acme' is installed (installed: " in printed


def test_a_fast_run_leaves_slow_clauses_out(tmp_path: Path) -> None:
    install(tmp_path)
    _, entries = kit(tmp_path, "--provider", "acme", "--conformance-fast")
    assert with_outcome(entries, "not run") == {
        each.id for each in clauses("cache") if each.slow and not each.needs
    }


def test_older_levels_are_run(tmp_path: Path) -> None:
    install(tmp_path, subject="of_a_later_kit")
    for level, later in ((None, "kept"), ("1.9", "not offered"), ("1.0", "not offered")):
        asked = ("--level", level) if level else ()
        _, entries = kit(tmp_path, "--provider", "acme", "-k", "acme.later or get.missing", *asked)
        assert entries["cache.acme.later"]["outcome"] == later
        assert entries["cache.get.missing"]["outcome"] == "kept"
        (backend,) = json.loads((tmp_path / "report.json").read_text())["backends"]
        assert backend["level"] == (level or "1.10")
    _, entries = kit(tmp_path, "--provider", "acme", "--level", "0.9")
    assert {entry["outcome"] for entry in entries.values()} == {"not offered"}


def test_ones_own_test_file(tmp_path: Path) -> None:
    install(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/test_acme.py").write_text(
        "from acme import AcmeProvider\n"
        "from grelmicro.testing.conformance import Subject, conform\n"
        "test_promises = conform(Subject('acme', AcmeProvider, options=lambda kind, space: {}))\n"
    )
    printed, entries = run(tmp_path, "--conformance-badge", "../badge.json", "-k", "cache.get")
    assert "promises ====" not in printed
    assert "cache.get.missing" in with_outcome(entries, "kept")
    shown = json.loads((tmp_path / "badge.json").read_text())
    assert shown["schemaVersion"] == 1
    assert shown["color"] == "yellow"  # some were not run


def test_elsewhere_the_names_of_its_options_are_free(tmp_path: Path) -> None:
    printed, _ = run(tmp_path, "--provider", "acme", code=4)
    assert "unrecognized arguments: --provider" in printed
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, check=True
    )
    assert "--conformance-report" in done.stdout
    assert "--level" not in done.stdout


def made(**outcomes: Outcome) -> dict[str, Any]:
    names = {name.replace("__", "."): outcome for name, outcome in outcomes.items()}
    results = [Result("memory", name, outcome) for name, outcome in names.items()]
    return report([Subject("memory", MemoryProvider)], results)


def test_the_worst_of_several_results_counts() -> None:
    results = [
        Result("memory", "cache.get.missing", outcome)
        for outcome in (Outcome.KEPT, Outcome.BROKEN, Outcome.KEPT)
    ]
    (backend,) = report([Subject("memory", MemoryProvider)], results)["backends"]
    assert backend["clauses"]["cache.get.missing"]["outcome"] == "broken"


def test_badges() -> None:
    assert badge(made(cache__get__missing=Outcome.BROKEN))["message"] == "1 broken"
    assert badge(made(cache__get__missing=Outcome.BROKEN))["color"] == "red"
    all_kept = {each.id: {"outcome": "kept"} for each in clauses()}
    whole = {"backends": [{"clauses": all_kept}]}
    assert badge(whole)["message"] == f"{len(all_kept)} promises kept"
    assert badge(whole)["color"] == "brightgreen"


def test_tables() -> None:
    lines = table([made(cache__get__missing=Outcome.KEPT), made()]).splitlines()
    assert lines[:2] == ["| promises | memory | memory |", "| --- | --- | --- |"]
    assert "| `cache.get` | yes | ? |" in lines
    assert "| `cache.fault` | - | - |" in lines


def test_a_subject_refuses_a_waiver_without_a_reason() -> None:
    with pytest.raises(ValueError, match=r"waived: cache\.get\.missing is waived without a reason"):
        Subject("memory", MemoryProvider, waived={"cache.get.missing": " "})


def test_a_subject_claims_what_it_declares() -> None:
    subject = Subject("memory", MemoryProvider, declares=frozenset({Capability.PROCESSES}))
    assert subject.offers("cache", Capability.PROCESSES)


def test_the_command_line(tmp_path: Path) -> None:
    install(tmp_path)
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "grelmicro", "conformance", "acme", "-k", "cache.get"]
    command += ["-p", "no:asyncio", "--conformance-report", "r.json"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout
    shown = [sys.executable, "-m", "grelmicro.testing", "table", "r.json"]
    done = subprocess.run(shown, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert "| `cache.get` | yes |" in done.stdout
    shown[-1] = "missing.json"
    done = subprocess.run(shown, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "missing.json" in done.stderr


def test_virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend whose clock stands still is told when time passes."""
    now = 1000.0

    def advance(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("grelmicro.cache.memory.monotonic", lambda: now)
    subject = Subject("memory", MemoryProvider, advance=advance)
    for each in clauses("cache"):
        if each.id in ("cache.set.expires", "cache.set.lives_on", "cache.touch.prolongs"):
            each.check(subject)
    assert now > 1000.2
