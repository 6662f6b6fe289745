"""Mappings, files, the environment, and the classes they are loaded into."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attr
import attrs
import pydantic
import pytest

from grelmicro.errors import SettingsValidationError
from grelmicro.service import config, context, di


@attr.s(auto_attribs=True)
class GeneralConfig:
    log_level: str = "INFO"
    show_warnings: bool = config.bool_var(False)


@attrs.define
class Pool:
    size: int = 5
    hosts: list[str] = attrs.field(factory=list)
    password: str | None = None


@attrs.define
class AttrsDatabase:
    name: str
    pool: Pool = attrs.field(factory=Pool)
    options: dict[str, int] = attrs.field(factory=dict)
    ratio: float | None = None
    replica: Pool | None = None


@dataclasses.dataclass
class DataDatabase:
    name: str
    pool: Pool = dataclasses.field(default_factory=Pool)
    options: dict[str, int] = dataclasses.field(default_factory=dict)
    ratio: float | None = None
    replica: Pool | None = None


class ModelPool(pydantic.BaseModel):
    size: int = 5
    hosts: list[str] = []
    password: str | None = None


class ModelDatabase(pydantic.BaseModel):
    name: str
    pool: ModelPool = ModelPool()
    options: dict[str, int] = {}
    ratio: float | None = None
    replica: ModelPool | None = None


KINDS = [AttrsDatabase, DataDatabase, ModelDatabase]


def loaded(cls: type[Any], table: Mapping[str, Any]) -> Any:
    return config.ConfigSource({"db": table}).load(cls, "db")


def test_later_mappings_are_over_those_before_and_tables_are_merged() -> None:
    first = {"a": 1, "t": {"x": 1, "deep": {"p": 1}}, "v": {"gone": 1}}
    second = {"b": 2, "t": {"y": 2, "deep": {"q": 2}}, "v": 3}
    source = config.ConfigSource(first, second)
    assert source == {"a": 1, "b": 2, "t": {"x": 1, "y": 2, "deep": {"p": 1, "q": 2}}, "v": 3}
    assert first == {"a": 1, "t": {"x": 1, "deep": {"p": 1}}, "v": {"gone": 1}}


@pytest.mark.parametrize("cls", KINDS)
def test_every_kind_of_class(cls: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DB_POOL_SIZE", "7")
    monkeypatch.setenv("APP_DB_POOL_HOSTS", '["a", "b"]')
    monkeypatch.setenv("APP_DB_OPTIONS", '{"x": 1}')
    monkeypatch.setenv("APP_DB_RATIO", "0.5")
    found = loaded(cls, {"name": "main", "pool": {"size": 1, "password": "p"}, "options": {"y": 2}})
    assert (found.name, found.pool.size, found.pool.hosts) == ("main", 7, ["a", "b"])
    assert (found.options, found.ratio, found.pool.password) == ({"x": 1}, 0.5, "p")
    assert found.replica is None
    assert type(found) is cls


@pytest.mark.parametrize("cls", KINDS)
def test_an_optional_table_comes_with_its_first_variable(
    cls: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_DB_REPLICA_SIZE", "3")
    assert loaded(cls, {"name": "main"}).replica.size == 3


@pytest.mark.parametrize("cls", KINDS)
def test_all_faults_are_told_by_field_and_variable(
    cls: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_DB_POOL_PASSWORD", "geheim")
    with pytest.raises(SettingsValidationError) as caught:
        loaded(cls, {"pool": {"size": "many"}})
    lines = str(caught.value).splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == ["db.name", "db.pool.size"]
    assert "APP_DB_NAME" in str(caught.value)
    assert "APP_DB_POOL_SIZE" in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert "many" not in str(caught.value)


def test_lists_that_are_no_json_name_their_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DB_POOL_HOSTS", "a,b")
    with pytest.raises(SettingsValidationError, match=r"APP_DB_POOL_HOSTS.*JSON"):
        loaded(AttrsDatabase, {"name": "main"})


@pytest.mark.parametrize(
    ("text", "value"),
    [("yes", True), ("on", True), ("1", True), ("True", True), ("no", False), ("OFF", False)],
)
def test_booleans_in_words(text: str, value: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass
    class Flags:
        flag: bool

    assert config.ConfigSource({"show_warnings": text}).load(GeneralConfig).show_warnings is value
    anything: Any = text
    assert GeneralConfig(show_warnings=anything).show_warnings is value
    monkeypatch.setenv("APP_FLAG", text)
    assert config.ConfigSource({}).load(Flags).flag is value


@pytest.mark.parametrize("text", ["", "maybe", "2", 7, None, []])
def test_garbage_is_no_boolean_and_the_field_is_named(text: object) -> None:
    with pytest.raises(SettingsValidationError, match=r"^show_warnings: a boolean is one of"):
        config.ConfigSource({"show_warnings": text}).load(GeneralConfig)


def test_a_secret_is_shown_by_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(text: str) -> str:
        raise ValueError(f"cannot use {text}")

    @attrs.define
    class Login:
        api_key: str = attrs.field(converter=refuse)
        user: str = ""

    source = config.ConfigSource(
        {"api_key": "geheim", "t": {"PASSWORD": "geheim", "url": "redis://me:geheim@host/0"}}
    )
    assert "geheim" not in repr(source)
    assert "host/0" in repr(source)
    with pytest.raises(SettingsValidationError) as caught:
        source.load(Login)
    assert "geheim" not in str(caught.value)
    assert "api_key" in str(caught.value)
    assert caught.value.__context__ is None or "geheim" not in str(caught.value.__context__)


def test_variables_that_nothing_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("APP_DB_NAME", "APP_DB_NMAE", "APPLE", "APP_SERVICE_HOST"):
        monkeypatch.setenv(name, "x")
    source = config.ConfigSource({})
    source.load(AttrsDatabase, "db")
    assert source.unread() == ["APP_DB_NMAE", "APP_SERVICE_HOST"]


def test_without_a_prefix_the_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    source = config.ConfigSource(env_prefix="")
    assert source.load(GeneralConfig).log_level == "INFO"
    assert source.unread() == []


def test_dots_lead_to_tables_in_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_WEB_DB_POOL_SIZE", "9")
    source = config.ConfigSource({"web": {"db": {"name": "inner"}}})
    found = source.load(AttrsDatabase, "web.db")
    assert (found.name, found.pool.size) == ("inner", 9)


def test_a_section_that_is_a_value() -> None:
    with pytest.raises(SettingsValidationError, match=r"\[db\]: it is a value"):
        config.ConfigSource({"db": 1}).load(AttrsDatabase, "db")


def test_what_is_no_such_class() -> None:
    with pytest.raises(TypeError, match="attrs class"):
        config.ConfigSource({}).load(dict)


@attrs.define
class SlotsConfig(config.Config, section="slots"):
    size: int = 1


@dataclasses.dataclass
class DataConfig(config.Config, section="data"):
    size: int = 1


class ModelConfig(config.Config, pydantic.BaseModel, section="model"):
    size: int = 1


async def test_config_classes_are_injected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_SLOTS_SIZE", "4")
    with context.child():
        await config.prepare()
        context.add(config.ConfigSource({"data": {"size": 2}, "model": {"size": 3}}))
        assert (await di.nject(SlotsConfig)).size == 4
        assert (await di.nject(DataConfig)).size == 2
        assert (await di.nject(ModelConfig)).size == 3


async def test_two_classes_that_claim_a_section() -> None:
    @dataclasses.dataclass
    class Other(config.Config, section="data"):
        size: int = 1

    with context.child():
        await config.prepare()
        context.add(config.ConfigSource({}))
        await di.nject(DataConfig)
        await di.nject(DataConfig)
        with pytest.raises(SettingsValidationError, match=r"\[data\].*DataConfig.*Other"):
            await di.nject(Other)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("x = 1\n[t]\na = 1\n")
    (tmp_path / "b.json").write_text(json.dumps({"x": 2, "t": {"b": 2}}))
    found = config.ConfigSource.from_files(tmp_path / "a.toml", tmp_path / "b.json")
    assert found == {"x": 2, "t": {"a": 1, "b": 2}}


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.toml", "x = ", "a.toml: not TOML"),
        ("a.json", "{", "a.json: not JSON: line 1"),
        ("a.json", "[]", "no table"),
        ("a.ini", "", ".toml, .json"),
    ],
)
def test_files_that_are_not_what_they_seem(name: str, text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingsValidationError, match=what):
        config.read(tmp_path / name)
