"""The guards over the installed wheels, and the commands as a whole, notice what they are for."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts import _guards


def test_imports_that_fail_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up_good.py").write_text("")
    (tmp_path / "made_up_bad.py").write_text("import made_up_missing")
    monkeypatch.syspath_prepend(tmp_path)
    names = ["made_up_good", "made_up_bad"]
    found = list(_guards.failed_imports(names, tmp_path))
    assert found == ["import made_up_bad: ModuleNotFoundError: No module named 'made_up_missing'"]
    elsewhere = list(_guards.failed_imports(["made_up_good"], tmp_path / "other"))
    assert elsewhere == [
        f"import made_up_good: comes from {tmp_path / 'made_up_good.py'}, not from "
        f"{tmp_path / 'other'}"
    ]


def types_report(**changes: object) -> dict[str, Any]:
    symbol = {"name": "grelmicro.X", "isTypeKnown": True, "isTypeAmbiguous": False}
    symbol["diagnostics"] = [{"message": "No docstring found"}]
    complete = {"completenessScore": 1, "modules": [{"name": "grelmicro"}], "symbols": [symbol]}
    return {"generalDiagnostics": [], "typeCompleteness": complete | changes}


def types_faults(report: dict[str, Any]) -> list[str]:
    return list(_guards.incomplete_types(report, ["grelmicro"]))


def test_complete_types_pass() -> None:
    assert types_faults(types_report()) == []


def test_incomplete_types_are_reported() -> None:
    symbol = {"name": "grelmicro.X", "isTypeKnown": True, "isTypeAmbiguous": True}
    symbol["diagnostics"] = [{"message": "Type is missing type annotation"}]
    found = types_faults(types_report(completenessScore=0.998, symbols=[symbol]))
    assert found == [
        "grelmicro.X: Type is missing type annotation",
        "types are 99.8% complete, expected 100 %",
    ]


def test_modules_that_pyright_does_not_see_are_reported() -> None:
    assert types_faults(types_report(modules=[])) == ["grelmicro: pyright does not see it"]


def test_a_package_that_pyright_does_not_find_is_reported() -> None:
    report = types_report() | {"generalDiagnostics": [{"message": "No py.typed file found"}]}
    assert types_faults(report) == ["No py.typed file found"]


@pytest.fixture
def empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a workspace and nothing in `dist/`; `git` and the tools are real."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.hatch.envs.default]\nworkspace.members = ["packages/*"]\n'
    )
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.setattr(_guards, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", ["wheels", "imports"])
def test_a_command_with_nothing_to_look_at_fails(
    empty_project: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert _guards.main(command) == 1
    assert capsys.readouterr().out.strip()


def test_files_outside_of_a_repository_fail(
    empty_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (empty_project / ".git").rename(empty_project / "git")
    assert _guards.main("wheels") == 1
    assert "git lists no files" in capsys.readouterr().out
