"""Where a provider's settings come from, without a server."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import RedisDsn, SecretStr
from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from grelmicro.cache.redis import RedisCacheAdapter, RedisCacheBackend
from grelmicro.providers import from_url
from grelmicro.providers.redis import RedisConfig, RedisProvider, RedisProviderConfigError

SECRET = "s3cr3t/p@ss:w?rd#%[é "
QUOTED = "s3cr3t%2Fp%40ss%3Aw%3Frd%23%25%5B%C3%A9%20"

Env = pytest.MonkeyPatch


def options(provider: RedisProvider) -> dict[str, Any]:
    """What the native client connects with, without what is nobody's business here."""
    names = ("host", "port", "db", "username", "password", "path")
    given = provider.client.connection_pool.connection_kwargs
    return {name: given[name] for name in names if given.get(name) not in (None, "")}


def setenv(monkeypatch: Env, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


FORMS: dict[str, Callable[[], object]] = {
    "positional URL": lambda: RedisProvider("redis://x:6380/1"),
    "keyword URL": lambda: RedisProvider(url="redis://x:6380/1"),
    "decomposed": lambda: RedisProvider(host="x", port=6380, db=1),
    "environment": lambda: RedisProvider(),
    "prefix": lambda: RedisProvider(env_prefix="CACHE_REDIS_"),
    "keywords only": lambda: RedisProvider(host="x", port=6380, db=1, env_load=False),
    "config with URL": lambda: RedisProvider.from_config(RedisConfig(url="redis://x:6380/1")),
    "config": lambda: RedisProvider.from_config(RedisConfig(host="x", port=6380, db=1)),
    "pydantic DSN": lambda: RedisProvider(RedisDsn("redis://x:6380/1")),
    "secret string": lambda: RedisProvider(SecretStr("redis://x:6380/1")),
    "discovery": lambda: from_url("redis://x:6380/1"),
    "adapter": lambda: RedisCacheAdapter().provider,
    "adapter with prefix": lambda: RedisCacheAdapter(env_prefix="CACHE_REDIS_").provider,
    "older backend": lambda: RedisCacheBackend().provider,
    "older backend with URL": lambda: RedisCacheBackend("redis://x:6380/1").provider,
    "older backend with DSN": lambda: RedisCacheBackend(RedisDsn("redis://x:6380/1")).provider,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reaches_the_same_server(form: str, monkeypatch: Env) -> None:
    setenv(monkeypatch, REDIS_URL="redis://x:6380/1", CACHE_REDIS_URL="redis://x:6380/1")
    provider = FORMS[form]()
    assert isinstance(provider, RedisProvider)
    assert options(provider) == {"host": "x", "port": 6380, "db": 1}
    assert provider.url == "redis://x:6380/1"
    assert provider.timeout == 5


def test_defaults() -> None:
    provider = RedisProvider(host="x")
    assert options(provider) == {"host": "x", "port": 6379, "db": 0}
    assert provider.env_prefix == "REDIS_"
    assert provider.supports == ("cache", "sync", "ratelimiter", "circuitbreaker")


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"REDIS_HOST": "x"}, {"host": "x", "port": 6379, "db": 0}),
        (
            {"REDIS_HOST": "x", "REDIS_PORT": "1", "REDIS_DB": "2", "REDIS_PASSWORD": SECRET},
            {"host": "x", "port": 1, "db": 2, "password": SECRET},
        ),
        (
            {"REDIS_HOST": "x", "REDIS_USER": "u:@", "REDIS_PASSWORD": SECRET},
            {"host": "x", "port": 6379, "db": 0, "username": "u:@", "password": SECRET},
        ),
        (
            {"REDIS_HOST": "x", "REDIS_USERNAME": "u"},
            {"host": "x", "port": 6379, "db": 0, "username": "u"},
        ),
        (
            {"REDIS_URL": f"redis://u:{QUOTED}@x:1/2"},
            {"host": "x", "port": 1, "db": 2, "username": "u", "password": SECRET},
        ),
    ],
)
def test_the_environment_has_either_form(
    variables: dict[str, str], found: dict[str, object], monkeypatch: Env
) -> None:
    setenv(monkeypatch, **variables)
    assert options(RedisProvider()) == found


ENVIRONMENT = {"host": "env", "port": 1111, "db": 1, "username": "envuser", "password": "envpass"}


@pytest.mark.parametrize("form", ["URL", "fields"])
@pytest.mark.parametrize(
    "keywords",
    [
        {"host": "keyword"},
        {"port": 2222},
        {"db": 0},
        {"db": 9},
        {"username": "u:@/"},
        {"password": SECRET},
        {"host": "keyword", "db": 3, "password": SECRET},
    ],
    ids=str,
)
def test_a_keyword_goes_over_the_environment_field_by_field(
    keywords: dict[str, Any], form: str, monkeypatch: Env
) -> None:
    if form == "URL":
        setenv(monkeypatch, REDIS_URL="redis://envuser:envpass@env:1111/1")
    else:
        setenv(monkeypatch, **{f"REDIS_{n.upper()}": str(v) for n, v in ENVIRONMENT.items()})
    assert options(RedisProvider(**keywords)) == ENVIRONMENT | keywords


def test_keywords_over_a_url_keep_the_rest_of_it(monkeypatch: Env) -> None:
    setenv(monkeypatch, REDIS_URL="rediss://env:1111/1?db=7&client_name=me")
    provider = RedisProvider(host="keyword", db=3)
    pool = provider.client.connection_pool
    assert pool.connection_class is SSLConnection
    assert pool.connection_kwargs["client_name"] == "me"
    assert options(provider) == {"host": "keyword", "port": 1111, "db": 3}


def test_limits_go_with_an_address_from_the_environment(monkeypatch: Env) -> None:
    setenv(monkeypatch, REDIS_URL="redis://x")
    provider = RedisProvider(timeout=1.5, max_connections=3)
    assert provider.timeout == 1.5
    assert provider.client.connection_pool.max_connections == 3


def test_a_url_from_a_keyword_is_a_whole_address(monkeypatch: Env) -> None:
    setenv(monkeypatch, REDIS_HOST="env", REDIS_PORT="1", REDIS_DB="4")
    assert options(RedisProvider("redis://keyword")) == {"host": "keyword"}
    setenv(monkeypatch, REDIS_URL="redis://envuser:envpass@env:1/4")
    assert options(RedisProvider("redis://keyword/2")) == {"host": "keyword", "db": 2}


@pytest.mark.parametrize(
    ("url", "password"),
    [
        ("redis://x", "env"),
        ("redis://:own@x", "own"),
        ("redis://x?password=own", "own"),
        ("redis://user@x", None),
    ],
)
def test_credentials_of_the_environment_go_to_a_url_without(
    url: str, password: str | None, monkeypatch: Env
) -> None:
    setenv(monkeypatch, REDIS_PASSWORD="env")
    assert options(RedisProvider(url)).get("password") == password


def test_without_env_load_the_environment_is_not_read(monkeypatch: Env) -> None:
    setenv(monkeypatch, REDIS_URL="redis://env", REDIS_PORT="nonsense", REDIS_PASSWORD="env")
    assert options(RedisProvider("redis://x", env_load=False)) == {"host": "x"}
    assert options(RedisProvider(host="x", env_load=False)) == {"host": "x", "port": 6379, "db": 0}
    with pytest.raises(RedisProviderConfigError, match=r"pass url= or host=$"):
        RedisProvider(env_load=False)


def test_a_config_never_reads_the_environment(monkeypatch: Env) -> None:
    setenv(monkeypatch, REDIS_URL="redis://env", REDIS_PASSWORD="env", REDIS_PORT="nonsense")
    provider = RedisProvider.from_config(RedisConfig(host="x"))
    assert options(provider) == {"host": "x", "port": 6379, "db": 0}
    with pytest.raises(RedisProviderConfigError, match="url or host"):
        RedisConfig()


def test_two_prefixes_are_two_servers(monkeypatch: Env) -> None:
    setenv(monkeypatch, CACHE_REDIS_URL="redis://cache", SESSION_REDIS_HOST="session")
    assert options(RedisProvider(env_prefix="CACHE_REDIS_"))["host"] == "cache"
    assert options(RedisProvider(env_prefix="SESSION_REDIS_"))["host"] == "session"
    with pytest.raises(RedisProviderConfigError, match="REDIS_URL or REDIS_HOST"):
        RedisProvider()


def test_what_kubernetes_puts_there_is_no_port(monkeypatch: Env) -> None:
    setenv(
        monkeypatch,
        REDIS_PORT="tcp://10.0.0.1:6379",
        REDIS_PORT_6379_TCP="tcp://10.0.0.1:6379",
        REDIS_SERVICE_HOST="10.0.0.1",
        REDIS_HOST="x",
    )
    assert options(RedisProvider()) == {"host": "x", "port": 6379, "db": 0}
    monkeypatch.delenv("REDIS_HOST")
    setenv(monkeypatch, REDIS_URL="redis://y")
    assert options(RedisProvider()) == {"host": "y"}


def test_empty_variables_are_not_there(monkeypatch: Env) -> None:
    empty = ("HOST", "PORT", "DB", "USER", "USERNAME", "PASSWORD")
    setenv(monkeypatch, REDIS_URL="redis://x", **{f"REDIS_{name}": "" for name in empty})
    assert options(RedisProvider()) == {"host": "x"}
    setenv(monkeypatch, REDIS_URL="", REDIS_HOST="y")
    assert options(RedisProvider())["host"] == "y"
    setenv(monkeypatch, REDIS_HOST="")
    with pytest.raises(RedisProviderConfigError, match="REDIS_URL or REDIS_HOST"):
        RedisProvider()


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://", None),
        ("redis://x", {"host": "x"}),
        ("REDIS://x", {"host": "x"}),
        ("redis://x/3", {"host": "x", "db": 3}),
        ("redis://x/3?db=4", {"host": "x", "db": 4}),
        ("redis://[::1]:1/0", {"host": "::1", "port": 1, "db": 0}),
        (f"redis://:{QUOTED}@x", {"host": "x", "password": SECRET}),
        (f"redis://u%40:{QUOTED}@x", {"host": "x", "username": "u@", "password": SECRET}),
        ("unix:///run/redis.sock", {"path": "/run/redis.sock"}),
        ("unix:///run/redis.sock?db=2", {"path": "/run/redis.sock", "db": 2}),
        (f"unix://u:{QUOTED}@/r.sock", {"path": "/r.sock", "username": "u", "password": SECRET}),
    ],
)
def test_urls(url: str, found: dict[str, object] | None) -> None:
    if found is None:
        with pytest.raises(RedisProviderConfigError, match="no host"):
            RedisProvider(url)
    else:
        assert options(RedisProvider(url)) == found


def test_the_scheme_says_what_kind_of_connection_it_is() -> None:
    def kind(url: str) -> object:
        return RedisProvider(url).client.connection_pool.connection_class

    assert kind("rediss://x") is SSLConnection
    assert kind("unix:///r.sock") is UnixDomainSocketConnection
    assert kind("redis://x") not in (SSLConnection, UnixDomainSocketConnection)


@pytest.mark.parametrize(
    ("keywords", "found"),
    [
        ({"db": 3}, {"db": 3}),
        ({"db": 0}, {}),
        ({"password": SECRET}, {"db": 2, "password": SECRET}),
        ({"username": "u", "password": SECRET}, {"db": 2, "username": "u", "password": SECRET}),
    ],
    ids=str,
)
def test_keywords_over_a_socket(
    keywords: dict[str, Any], found: dict[str, object], monkeypatch: Env
) -> None:
    setenv(monkeypatch, REDIS_URL="unix:///run/redis.sock?db=2")
    provider = RedisProvider(**keywords)
    assert {"db": 0} | options(provider) == {"db": 0, "path": "/run/redis.sock"} | found


@pytest.mark.parametrize("keywords", [{"host": "x"}, {"port": 1}])
def test_a_host_is_not_dropped_because_the_environment_names_a_socket(
    keywords: dict[str, Any], monkeypatch: Env
) -> None:
    setenv(monkeypatch, REDIS_URL="unix:///run/redis.sock")
    with pytest.raises(RedisProviderConfigError, match=f"REDIS_URL and {next(iter(keywords))}"):
        RedisProvider(**keywords)


def test_options_of_a_url_go_over_ours() -> None:
    pool = RedisProvider("redis://x?max_connections=3&socket_timeout=0.5").client.connection_pool
    assert pool.max_connections == 3
    assert pool.connection_kwargs["socket_timeout"] == 0.5


def test_a_wrong_variable_that_a_keyword_replaces_does_no_harm(monkeypatch: Env) -> None:
    setenv(monkeypatch, REDIS_PORT="nonsense", REDIS_HOST="x")
    assert options(RedisProvider(port=1)) == {"host": "x", "port": 1, "db": 0}


def test_from_client_has_no_url_and_does_no_io() -> None:
    client = Redis(host="192.0.2.1")  # an address that nobody has
    provider = RedisProvider.from_client(client)
    assert provider.client is client
    assert (provider.url, provider.env_prefix) == ("", "")
    assert repr(provider) == "RedisProvider()"
