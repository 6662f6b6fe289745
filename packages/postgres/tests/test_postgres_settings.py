"""Where a provider's settings come from, without a server."""

import getpass
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import PostgresDsn, SecretStr

from grelmicro.cache.postgres import PostgresCacheAdapter
from grelmicro.providers import from_url
from grelmicro.providers.postgres import (
    PostgresConfig,
    PostgresProvider,
    PostgresProviderConfigError,
)

SECRET = "s3cr3t/p@ss:w?rd#%[é "
QUOTED = "s3cr3t%2Fp%40ss%3Aw%3Frd%23%25%5B%C3%A9%20"
URL = "postgresql://u@x:6543/app"

Env = pytest.MonkeyPatch


def options(provider: PostgresProvider) -> dict[str, Any]:
    """What the driver connects with, host and port as one server's."""
    assert provider._config is not None
    given = provider._config.address.keywords()
    (given["host"],), (given["port"],) = given["host"], given["port"]
    names = ("host", "port", "user", "password", "database")
    return {name: given[name] for name in names if given[name] != ""}


def setenv(monkeypatch: Env, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


FORMS: dict[str, Callable[[], object]] = {
    "positional URL": lambda: PostgresProvider(URL),
    "keyword URL": lambda: PostgresProvider(url=URL),
    "older scheme": lambda: PostgresProvider("postgres://u@x:6543/app"),
    "driver": lambda: PostgresProvider("postgresql+asyncpg://u@x:6543/app"),
    "capitals": lambda: PostgresProvider("POSTGRESQL://u@x:6543/app"),
    "decomposed": lambda: PostgresProvider(host="x", port=6543, database="app", user="u"),
    "environment": lambda: PostgresProvider(),
    "prefix": lambda: PostgresProvider(env_prefix="WRITE_POSTGRES_"),
    "keywords only": lambda: PostgresProvider(
        host="x", port=6543, database="app", user="u", env_load=False
    ),
    "config with URL": lambda: PostgresProvider.from_config(PostgresConfig(url=URL)),
    "config": lambda: PostgresProvider.from_config(
        PostgresConfig(host="x", port=6543, database="app", user="u")
    ),
    "pydantic DSN": lambda: PostgresProvider(PostgresDsn(URL)),
    "secret string": lambda: PostgresProvider(SecretStr(URL)),
    "discovery": lambda: from_url(URL),
    "discovery with driver": lambda: from_url("postgresql+asyncpg://u@x:6543/app"),
    "adapter": lambda: PostgresCacheAdapter().provider,
    "adapter with prefix": lambda: PostgresCacheAdapter(env_prefix="WRITE_POSTGRES_").provider,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reaches_the_same_server(form: str, monkeypatch: Env) -> None:
    setenv(monkeypatch, POSTGRES_URL=URL, WRITE_POSTGRES_URL=URL)
    provider = FORMS[form]()
    assert isinstance(provider, PostgresProvider)
    assert options(provider) == {"host": "x", "port": 6543, "user": "u", "database": "app"}
    assert provider.url == URL
    assert provider.timeout == 5


def test_defaults() -> None:
    provider = PostgresProvider(host="x")
    user = getpass.getuser()
    assert options(provider) == {"host": "x", "port": 5432, "user": user, "database": user}
    assert provider.env_prefix == "POSTGRES_"
    assert provider.supports == ("cache", "sync", "ratelimiter", "circuitbreaker")
    assert options(PostgresProvider("postgresql://u@x"))["database"] == "u"


LOGIN = {"user": "u:@", "password": SECRET}


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"HOST": "x", "USER": "u"}, {"host": "x", "port": 5432, "user": "u", "database": "u"}),
        (
            {"HOST": "x", "PORT": "1", "DB": "d", "USER": "u:@", "PASSWORD": SECRET},
            {"host": "x", "port": 1, "database": "d", **LOGIN},
        ),
        (
            {"HOST": "x", "DATABASE": "d/é", "USERNAME": "u:@", "PASSWORD": SECRET},
            {"host": "x", "port": 5432, "database": "d/é", **LOGIN},
        ),
        (
            {"URL": f"postgres://u%3A%40:{QUOTED}@x:1/d"},
            {"host": "x", "port": 1, "database": "d", **LOGIN},
        ),
    ],
)
def test_the_environment_has_either_form(
    variables: dict[str, str], found: dict[str, object], monkeypatch: Env
) -> None:
    setenv(monkeypatch, **{f"POSTGRES_{name}": value for name, value in variables.items()})
    assert options(PostgresProvider()) == found


ENVIRONMENT = {
    "host": "env",
    "port": 1111,
    "database": "envdb",
    "user": "envuser",
    "password": "envpass",
}


@pytest.mark.parametrize("form", ["URL", "fields"])
@pytest.mark.parametrize(
    "keywords",
    [
        {"host": "keyword"},
        {"host": "/run/postgres"},
        {"host": "::1"},
        {"port": 2222},
        {"database": "a/b é"},
        {"user": "u:@/"},
        {"password": SECRET},
        {"host": "keyword", "database": "d", "password": SECRET},
    ],
    ids=str,
)
def test_a_keyword_goes_over_the_environment_field_by_field(
    keywords: dict[str, Any], form: str, monkeypatch: Env
) -> None:
    if form == "URL":
        setenv(monkeypatch, POSTGRES_URL="postgresql://envuser:envpass@env:1111/envdb")
    else:
        setenv(monkeypatch, **{f"POSTGRES_{n.upper()}": str(v) for n, v in ENVIRONMENT.items()})
    assert options(PostgresProvider(**keywords)) == ENVIRONMENT | keywords


def test_a_url_from_a_keyword_is_a_whole_address(monkeypatch: Env) -> None:
    setenv(monkeypatch, POSTGRES_HOST="env", POSTGRES_PORT="1", POSTGRES_DB="d")
    assert options(PostgresProvider("postgresql://u@x")) == {
        "host": "x", "port": 5432, "user": "u", "database": "u",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("postgresql://x/d", ("env", "envpass")),
        ("postgresql://env@x/d", ("env", "envpass")),
        ("postgresql://:own@x/d", (None, "own")),
        ("postgresql://x/d?password=own&user=me", ("me", "own")),
        ("postgresql://me@x/d", ("me", None)),
    ],
)
def test_a_login_of_the_environment_goes_to_a_url_without(
    url: str, login: tuple[str | None, str | None], monkeypatch: Env
) -> None:
    setenv(monkeypatch, POSTGRES_USER="env", POSTGRES_PASSWORD="envpass")
    found = options(PostgresProvider(url))
    assert (found["user"], found.get("password")) == (login[0] or getpass.getuser(), login[1])


def test_without_env_load_the_environment_is_not_read(monkeypatch: Env) -> None:
    setenv(monkeypatch, POSTGRES_URL=URL, POSTGRES_PORT="nonsense", POSTGRES_PASSWORD="env")
    found = options(PostgresProvider("postgresql://u@y", env_load=False))
    assert found == {"host": "y", "port": 5432, "user": "u", "database": "u"}
    with pytest.raises(PostgresProviderConfigError, match=r"pass url= or host=$"):
        PostgresProvider(env_load=False)
    assert options(PostgresProvider.from_config(PostgresConfig(host="x", user="u"))) == {
        "host": "x", "port": 5432, "user": "u", "database": "u",
    }  # fmt: skip


async def test_variables_of_the_driver_are_not_read(postgres_url: str, monkeypatch: Env) -> None:
    setenv(
        monkeypatch, PGHOST="192.0.2.1", PGPORT="1", PGUSER="nobody-of-that-name",
        PGPASSWORD="wrong", PGDATABASE="no-such-database", PGSSLMODE="verify-full",
    )  # fmt: skip
    async with PostgresProvider(postgres_url.rpartition("/")[0]) as provider:
        rows = await provider.fetch("SELECT current_user::text, current_database()::text")
    assert tuple(rows[0]) == ("postgres", "postgres")


def test_two_prefixes_are_two_servers(monkeypatch: Env) -> None:
    setenv(monkeypatch, WRITE_POSTGRES_URL="postgresql://w", READ_POSTGRES_HOST="r")
    assert options(PostgresProvider(env_prefix="WRITE_POSTGRES_"))["host"] == "w"
    assert options(PostgresProvider(env_prefix="READ_POSTGRES_"))["host"] == "r"
    with pytest.raises(PostgresProviderConfigError, match="POSTGRES_URL or POSTGRES_HOST"):
        PostgresProvider()


def test_what_kubernetes_puts_there_is_no_port(monkeypatch: Env) -> None:
    setenv(monkeypatch, POSTGRES_PORT="tcp://10.0.0.1:5432", POSTGRES_HOST="x")
    assert options(PostgresProvider())["port"] == 5432
    monkeypatch.delenv("POSTGRES_HOST")
    setenv(monkeypatch, POSTGRES_URL="postgresql://y")
    assert options(PostgresProvider())["host"] == "y"


def test_empty_variables_are_not_there(monkeypatch: Env) -> None:
    empty = ("HOST", "PORT", "DB", "DATABASE", "USER", "USERNAME", "PASSWORD")
    setenv(monkeypatch, POSTGRES_URL=URL, **{f"POSTGRES_{name}": "" for name in empty})
    assert options(PostgresProvider())["host"] == "x"


@pytest.mark.parametrize(
    ("url", "places"),
    [
        ("postgresql://x", (("x", 5432),)),
        ("postgresql://[::1]:1/d", (("::1", 1),)),
        ("postgresql://[::1]/d", (("::1", 5432),)),
        ("postgresql://a,b:1,c/d", (("a", 5432), ("b", 1), ("c", 5432))),
        ("postgresql://%2Frun%2Fpg:1/d", (("/run/pg", 1),)),
        ("postgresql:///d?host=/run/pg&port=1", (("/run/pg", 1),)),
        ("postgresql://u:p@/d?host=a,b", (("a", 5432), ("b", 5432))),
    ],
)
def test_urls(url: str, places: tuple[tuple[str, int], ...]) -> None:
    provider = PostgresProvider(url)
    assert provider._config is not None
    assert provider._config.address.places == places


def test_options_of_a_url_reach_the_driver() -> None:
    address = PostgresConfig(url="postgresql://x/d?ssl=require&search_path=a,b").address
    assert dict(address.options) == {"sslmode": "require", "search_path": "a,b"}
    assert address.keywords()["dsn"] == "postgresql://?search_path=a%2Cb&sslmode=require"
    assert "ssl" not in address.keywords()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "scheme": ({"url": f"mysql://u:{QUOTED}@x"}, "url: expected one of postgresql://"),
    "no URL": ({"url": "x"}, "url: expected one of postgresql://"),
    "no host": ({"url": f"postgresql://u:{QUOTED}@/d"}, "url: it names no host"),
    "empty host": ({"url": "postgresql://a,/d"}, "url: it names no host"),
    "port": ({"url": "postgresql://u:s3cr3t@x:port"}, "url: it cannot be read"),
    "port 0": ({"url": "postgresql://x:0"}, "url: it cannot be read"),
    "password with #": ({"url": "postgresql://u:s3cr3t#@x"}, "url: it "),
    "option": ({"url": "postgresql://x?sslmode=s3cr3t"}, "url: sslmode is one of"),
    "options": ({"url": "postgresql://x?s3cr3t"}, "url: it cannot be read"),
    "both": ({"url": URL, "host": "y", "password": "s3cr3t"}, "url and host, password exclude"),
    "wrong port": ({"host": "x", "port": 70_000}, "port: "),
    "timeout": ({"host": "x", "timeout": 0}, "timeout: "),
    "connections": ({"host": "x", "max_connections": 0}, "max_connections: "),
    "cache": ({"host": "x", "statement_cache_size": -1}, "statement_cache_size: "),
    "empty user": ({"host": "x", "user": ""}, "user: "),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("make", [PostgresProvider, PostgresConfig])
def test_bad_settings_are_one_error_that_shows_no_value(case: str, make: Any) -> None:
    keywords, text = BAD[case]
    with pytest.raises(PostgresProviderConfigError) as caught:
        make(**keywords)
    assert text in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"URL": "mysql://u:s3cr3t@x"}, "POSTGRES_URL: expected one of"),
        ({"URL": URL, "HOST": "y"}, "POSTGRES_URL and POSTGRES_HOST exclude"),
        ({"URL": URL, "DB": "d"}, "POSTGRES_URL and POSTGRES_DB exclude"),
        ({"HOST": "x", "PORT": "s3cr3t"}, "POSTGRES_PORT: "),
    ],
)
def test_bad_variables_are_called_by_their_names(
    variables: dict[str, str], text: str, monkeypatch: Env
) -> None:
    setenv(monkeypatch, **{f"POSTGRES_{name}": value for name, value in variables.items()})
    with pytest.raises(PostgresProviderConfigError) as caught:
        PostgresProvider()
    assert text in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_a_wrong_variable_that_a_keyword_replaces_does_no_harm(monkeypatch: Env) -> None:
    setenv(monkeypatch, POSTGRES_PORT="nonsense", POSTGRES_HOST="x")
    assert options(PostgresProvider(port=1))["port"] == 1


def test_one_host_does_not_go_over_several(monkeypatch: Env) -> None:
    setenv(monkeypatch, POSTGRES_URL="postgresql://a,b/d")
    with pytest.raises(PostgresProviderConfigError, match="POSTGRES_URL and host exclude"):
        PostgresProvider(host="c")
    provider = PostgresProvider(database="e", user="u")
    assert provider._config is not None
    assert provider._config.address.database == "e"
    assert len(provider._config.address.places) == 2


@pytest.mark.parametrize(
    "url",
    [f"postgresql://u:{QUOTED}@x:1/d", f"postgresql://x/d?user=u&password={QUOTED}"],
)
def test_credentials_are_shown_nowhere(url: str) -> None:
    config = PostgresConfig(url=url)
    provider = PostgresProvider(url)
    for shown in (repr(config), str(config), repr(config.address), repr(provider), provider.url):
        assert "s3cr3t" not in shown
        assert "x" in shown
    assert options(provider)["password"] == SECRET
    assert "s3cr3t" not in repr(PostgresProvider(host="x", password=SECRET))
