"""Where providers are found, and what is told when a module is missing or broken."""

import sys
import types
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from grelmicro import inject
from grelmicro.inject import Container, DeclarationError

PROVIDERS = """
from grelmicro.inject import Container
own = Container()

@own.provider
async def message():
    yield "Hello, providers!"
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory that modules are imported from, and forgotten again."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("PROVIDER_MODULES", raising=False)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


async def message_of(container: Container) -> Any:
    async with container, container.scope() as scope:
        return await scope.get("message")


async def test_in_listed_modules(package: Path) -> None:
    (package / "conf_one.py").write_text(PROVIDERS)
    (package / "conf_two.py").write_text("from conf_one import message")
    for name in ("conf_one", "conf_two"):
        c = Container()
        c.discover_providers(name)
        c.discover_providers(name)  # once is enough
        assert await message_of(c) == "Hello, providers!"


async def test_in_a_module_itself_declared_or_imported() -> None:
    own = Container()

    @own.provider
    def message() -> str:
        return "imported"

    @wraps(message)
    def wrapper() -> str:
        return "only wraps it"

    module: Any = types.ModuleType("application")
    module.anything, module.copy, module.number = message, wrapper, 1
    c = Container()
    c.discover_providers(module)
    assert await message_of(c) == "imported"


async def test_by_the_environment(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "conf_env.py").write_text(PROVIDERS)
    (package / "conf_other.py").write_text("")
    monkeypatch.setenv("PROVIDER_MODULES", "conf_other, conf_env")
    c = Container()
    c.discover_defaults()
    assert await message_of(c) == "Hello, providers!"


async def test_by_convention_in_the_working_directory(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Container().discover_defaults()  # nothing there is fine
    for text in ("Hello", "Good bye"):
        folder = package / text.replace(" ", "_")
        folder.mkdir()
        monkeypatch.chdir(folder)
        (folder / "providerconf.py").write_text(PROVIDERS.replace("Hello", text))
        for _ in range(2):
            c = Container()
            c.discover_defaults()
            assert await message_of(c) == f"{text}, providers!"


def test_a_missing_module_is_named_with_who_listed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_conf") as raised:
        Container().discover_providers("no_such_conf")
    assert raised.value.__notes__[0].startswith(
        f"while importing the provider module 'no_such_conf', listed by {__file__}:"
    )
    monkeypatch.setenv("PROVIDER_MODULES", "no_such_conf")
    with pytest.raises(ModuleNotFoundError) as raised:
        Container().discover_defaults()
    assert raised.value.__notes__[0].endswith("listed by the variable PROVIDER_MODULES")


def test_a_module_whose_own_import_fails(package: Path) -> None:
    (package / "conf_broken.py").write_text("import no_such_dependency")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency") as raised:
        Container().discover_providers("conf_broken")
    assert "'conf_broken'" in raised.value.__notes__[0]


def test_a_broken_convention_is_raised_and_tried_again(package: Path) -> None:
    (package / "providerconf.py").write_text("import no_such_dependency")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_dependency") as raised:
            Container().discover_defaults()
        assert str(package / "providerconf.py") in raised.value.__notes__[0]


async def test_the_default_container(package: Path) -> None:
    container = inject.container
    (package / "conf_default.py").write_text(
        "from grelmicro.inject import provider\n"
        "@provider(name='default_message', scope='app')\n"
        "async def provide() -> str:\n"
        "    return 'found'\n"
    )
    inject.discover_providers("conf_default")
    inject.alias("default_alias", "default_message")
    inject.add(3, "default_three")

    class Foo: ...

    inject.register(Foo)
    async with container, container.scope() as scope:
        assert await scope.get("default_alias") == "found"
        assert isinstance(await scope.get(Foo), Foo)
        with inject.override(default_three=4):
            assert await scope.get("default_message") == "found"
            assert container.values["default_three"] == 4
        with pytest.raises(DeclarationError, match="too late"):
            inject.provider(lambda: 1, name="late")
