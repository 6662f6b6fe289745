"""Settings that cannot be used, and what is not to be seen of settings."""

import math
import traceback
from typing import Any

import pytest

from grelmicro import Grelmicro
from grelmicro.cache import Cache
from grelmicro.cache.redis import RedisCacheBackend
from grelmicro.errors import SettingsValidationError
from grelmicro.providers.redis import RedisConfig, RedisProvider, RedisProviderConfigError

SECRET = "s3cr3t/p@ss:w?rd#%[é "
QUOTED = "s3cr3t%2Fp%40ss%3Aw%3Frd%23%25%5B%C3%A9%20"

Env = pytest.MonkeyPatch


def setenv(monkeypatch: Env, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


WAYS = ("keyword", "environment", "config")


def refusal(way: str, monkeypatch: Env, fields: dict[str, Any]) -> RedisProviderConfigError:
    """The error that fields lead to when they come this way."""
    if way == "environment":
        setenv(monkeypatch, **{f"REDIS_{n.upper()}": str(v) for n, v in fields.items()})
        fields = {}
    make: Any = RedisConfig if way == "config" else RedisProvider
    with pytest.raises(RedisProviderConfigError) as caught:
        make(**fields)
    assert type(caught.value) is RedisProviderConfigError
    return caught.value


def named(way: str, field: str) -> str:
    return f"REDIS_{field.upper()}" if way == "environment" else field


def whole(error: BaseException) -> str:
    """All that a log would show of an error, its chain included."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "url",
    [
        "http://u:hunter2@x",
        "postgres://u:hunter2@x",
        "://u:hunter2@x",
        "hunter2",
        "redis://u:hunter2@",
        "redis://u:hunter2@x:port",
        "redis://u:hunter2@x:99999",
        "redis://u:hunter2@x/name",
        "redis://u:hunter2@x/0?db=hunter2",
        "redis://u:hunter2@x/0?nonsense=hunter2",
        "redis://u:hunter2@x/0?socket_timeout=hunter2",
        "redis://u:hun#ter2@x/0",
        "redis://u:12#hunter2@x/0",
        "redis://u:12?hunter2@x/0",
        "redis://u:hun/ter2@x/0",
        "redis://u:hunter2[@x/0",
        "unix://u:hunter2@",
    ],
)
def test_a_wrong_url_is_the_same_error_whichever_way_it_came(
    url: str, way: str, monkeypatch: Env
) -> None:
    error = refusal(way, monkeypatch, {"url": url})
    assert str(error).startswith(f"{named(way, 'url')}: ")
    assert not [part for part in ("ter2", "12#", "12?") if part in whole(error)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("field", "value"),
    [("port", "31337x"), ("port", 0), ("port", 65536), ("port", "tcp:31337"), ("db", "31337x"),
     ("db", -1)],
)  # fmt: skip
def test_a_wrong_field_is_named_and_its_value_is_not_shown(
    field: str, value: object, way: str, monkeypatch: Env
) -> None:
    error = refusal(way, monkeypatch, {"host": "x", field: value})
    assert str(error).startswith(f"{named(way, field)}: ")
    assert "31337" not in whole(error)


@pytest.mark.parametrize("field", ["port", "db"])
def test_a_wrong_keyword_over_a_url_is_named(field: str, monkeypatch: Env) -> None:
    setenv(monkeypatch, REDIS_URL="redis://x")
    keywords: dict[str, Any] = {field: "nonsense"}
    with pytest.raises(RedisProviderConfigError, match=f"^{field}: "):
        RedisProvider(**keywords)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("field", ["host", "port", "db", "username", "password"])
def test_a_url_and_a_field_of_one_source_exclude_each_other(
    field: str, way: str, monkeypatch: Env
) -> None:
    value = {"port": 1, "db": 0}.get(field, "hunter2")
    error = refusal(way, monkeypatch, {"url": "redis://x", field: value})
    assert f"{named(way, 'url')} and {named(way, field)}" in str(error)
    assert "hunter2" not in whole(error)


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, 3601, "soon"])
def test_a_timeout_is_positive_and_at_most_an_hour(timeout: Any) -> None:
    with pytest.raises(RedisProviderConfigError, match=r"^timeout: "):
        RedisProvider(host="x", timeout=timeout)


def test_a_provider_has_room_for_a_connection() -> None:
    with pytest.raises(RedisProviderConfigError, match=r"^max_connections: "):
        RedisProvider(host="x", max_connections=0)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(RedisProviderConfigError) as caught:
        RedisProvider(host="x", port=0, db=-1)
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == ["port", "db"]


def test_the_error_is_what_a_caller_would_catch() -> None:
    assert issubclass(RedisProviderConfigError, SettingsValidationError)
    assert issubclass(RedisProviderConfigError, ValueError)


@pytest.mark.parametrize("url", [f"redis://u:{QUOTED}@x:1/0", f"redis://x?password={QUOTED}"])
def test_credentials_are_shown_nowhere(url: str) -> None:
    provider = RedisProvider(url)
    config = RedisConfig(url=url)
    adapters = [provider.cache(), RedisCacheBackend(url)]
    things = [provider, config, *adapters, Cache(provider), Grelmicro(uses=[provider])]
    shown = [*map(repr, things), *map(str, things), provider.url, config.model_dump_json()]
    shown += [str(config.model_dump())]
    assert not [text for text in shown if "s3cr3t" in text]


def test_a_password_field_is_shown_nowhere() -> None:
    config = RedisConfig(host="x", password=SECRET)
    provider = RedisProvider.from_config(config)
    shown = [repr(config), str(config), str(config.model_dump()), repr(provider), provider.url]
    assert not [text for text in shown if "s3cr3t" in text]
    assert provider.url == "redis://:***@x:6379/0"


async def test_a_warning_of_the_app_masks_them() -> None:
    provider = RedisProvider(f"redis://u:{QUOTED}@x")

    with pytest.warns(UserWarning, match="not listed") as warned:
        async with Grelmicro(uses=[Cache(provider)]):
            pass
    assert "s3cr3t" not in str(warned[0].message)
