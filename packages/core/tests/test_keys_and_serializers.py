"""From calls to keys, and from values to bytes: the same in every process, and right."""

import dataclasses
import enum
import itertools
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from grelmicro.cache import (
    CacheSettingsValidationError,
    CompressedSerializer,
    JsonSerializer,
    PickleSerializer,
    PydanticSerializer,
    SignedSerializer,
    TTLCache,
    cached,
)
from grelmicro.cache._arguments import default_key, write
from grelmicro.cache.memory import MemoryCacheAdapter
from grelmicro.cache.serializers import _standard_dumps


class Price(BaseModel):
    cents: int


class Color(enum.IntEnum):
    RED = 1


class Name(enum.StrEnum):
    RED = "1"


@dataclasses.dataclass
class Point:
    x: int
    tags: list[str]


class User(BaseModel):
    id: int
    joined: date


loose_cache: Any = TTLCache
loose_cached: Any = cached
"""What takes wrong arguments, as far as the type checkers know."""


def function(a: Any, b: Any = 2, *rest: Any, **options: Any) -> None: ...


def keys(*calls: tuple[tuple[Any, ...], dict[str, Any]], typed: bool = False) -> list[str]:
    """The keys of calls, made by one maker, so that its memo has seen the earlier ones."""
    make = default_key(function, typed=typed)
    return [make(function, args, kwargs) for args, kwargs in calls]


def one(*values: Any, typed: bool = False) -> list[str]:
    return keys(*(((value,), {}) for value in values), typed=typed)


def test_equal_arguments_make_a_key_that_does_not_depend_on_who_called_first() -> None:
    values = (1, 1.0, True, "1", Color.RED, Name.RED)
    for typed, different in ((False, 4), (True, 6)):  # untyped, 1, 1.0 and True are one
        alone = {id(value): one(value, typed=typed)[0] for value in values}
        assert len(set(alone.values())) == different
        for order in itertools.permutations(values):
            assert one(*order, typed=typed) == [alone[id(value)] for value in order]


def test_equal_numbers_are_one_key_unless_typed() -> None:
    huge = 10**5000
    for equal in ([0.0, -0.0, 0, False], [huge, huge], [Decimal("1.50"), 1.5], [1e300, int(1e300)]):
        assert len(set(one(*equal))) == 1
    assert len(set(one(0.1, Decimal("0.1"), float("nan"), float("inf"), 10**5000 + 1))) == 5
    assert one(-0.0, 0.0, typed=True)[0] == one(0.0, typed=True)[0]
    long = Decimal(1) / 3 + Decimal("1e-40"), Decimal("0." + "3" * 60), Decimal("0." + "3" * 61)
    assert len(set(one(*long, Decimal("1E+1000000"), Decimal("sNaN")))) == 5


def test_how_a_call_is_spelt_does_not_matter() -> None:
    assert len(set(keys(((1,), {}), ((1, 2), {}), ((), {"a": 1}), ((), {"b": 2, "a": 1})))) == 1
    assert len(set(keys(((1,), {"x": 1, "y": 2}), ((1,), {"y": 2, "x": 1})))) == 1
    assert len(set(keys(((1, 2, 3), {}), ((1, 2), {}), ((1, 2, 3), {"x": 1})))) == 3


def test_unhashable_and_structured_arguments_work() -> None:
    point = Point(1, ["a"])
    user = User(id=1, joined=date(2026, 1, 2))
    values = [
        [1, "a"],
        (1, "a"),
        {"b": 1, "a": [2]},
        {3, 1, 2},
        set(),
        {},
        point,
        user,
        Color.RED,
        None,
        b"x",
        "x",
        datetime(2026, 1, 2, tzinfo=UTC),
        date(2026, 1, 2),
        timedelta(seconds=1),
        UUID(int=7),
    ]
    assert len(set(one(*values))) == len(values)
    assert len(set(one({"a": 1, "b": 2}, {"b": 2, "a": 1}))) == 1
    assert one(Point(1, ["a"])) == one(point)
    assert one(User(id=1, joined=date(2026, 1, 2))) == one(user)


class Plain:
    @cached(TTLCache(backend=MemoryCacheAdapter()))
    async def method(self) -> bytes:
        return b""


@dataclasses.dataclass
class Keyed:
    name: str

    @cached(TTLCache(backend=MemoryCacheAdapter(), serializer=JsonSerializer()))
    async def method(self) -> str:
        return self.name


async def test_what_has_no_stable_writing_is_refused_by_its_name() -> None:
    holding_itself: list[Any] = []
    holding_itself.append(holding_itself)
    for bad in (object(), Plain, len, holding_itself, [object()], {"k": object()}):
        with pytest.raises(TypeError, match=r"parameter 'a' cannot make a key: .*key="):
            one(bad)
    with pytest.raises(TypeError, match="parameter 'self'"):
        await Plain().method()
    assert [await Keyed("a").method(), await Keyed("b").method()] == ["a", "b"]
    for nameless in (lambda: None, Plain()):
        with pytest.raises(TypeError):
            loose_cached(TTLCache())(nameless)


_simple = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary())
_values = st.recursive(_simple, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(_values, _values, st.booleans())
def test_writings_are_equal_only_for_equal_values(one: Any, other: Any, typed: bool) -> None:
    def same(left: Any, right: Any) -> bool:
        return bool(left == right) or left != left  # NaN is written like NaN

    if write(one, typed=typed) == write(other, typed=typed):
        assert same(one, other) or "nan" in write(one)
    assert write(one, typed=typed) == write(one, typed=typed)


def test_every_process_writes_the_same_key() -> None:
    script = (
        "from grelmicro.cache._arguments import write\n"
        "print(write([{'a', 'b', 'c'}, {'é': 1.5}, ('\\u0378', b'x')]))"
    )
    source = str(Path(write.__code__.co_filename).parents[2])
    written = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": source},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "012"
    }
    assert len(written) == 1


async def test_templates_name_parameters_and_fill_them() -> None:
    cache = TTLCache[Any](backend=MemoryCacheAdapter(), serializer=JsonSerializer())

    @cached(cache, key="user:{user.id}:{kind}:{size:03d}")
    async def load(user: User, kind: str = "short", *, size: int = 7) -> str:
        return "value"

    await load(User(id=5, joined=date(2026, 1, 2)))
    assert await cache.get("user:5:short:007") == "value"
    with pytest.raises(ValueError, match=r"no parameter 'who' \(there are: a, b"):
        cached(cache, key="user:{who}")(function)
    with pytest.raises(ValueError, match="key="):
        cached(cache, key="user:{")(function)
    with pytest.raises(CacheSettingsValidationError, match="not both"):
        cached(cache, key="a", key_maker=lambda *_: "b")


@pytest.mark.parametrize(
    "key",
    [1, None, b"k", ("k",), ["k"], "a\0b", "a\nb", "k" * 10_000, "\ud800"],
    ids=lambda key: repr(key)[:12],
)
async def test_a_key_that_cannot_be_one_is_refused_before_any_io(key: Any) -> None:
    cache = TTLCache[bytes](backend=MemoryCacheAdapter())
    calls: list[Callable[[], Any]] = [
        lambda: cache.get(key),
        lambda: cache.set(key, b"v"),
        lambda: cache.delete(key),
        lambda: cache.touch(key),
        lambda: cache.get_many([key]),
        lambda: cache.delete_many([key]),
        lambda: cache.get_or_set(key, lambda: b"v"),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=r"^key: "):
            await call()


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), 0.0009, True, "60"])
async def test_a_ttl_that_cannot_be_one_is_refused(ttl: Any) -> None:
    with pytest.raises(ValueError, match=r"^ttl: "):
        loose_cache(ttl=ttl)
    with pytest.raises(ValueError, match=r"^ttl: "):
        await TTLCache[bytes](backend=MemoryCacheAdapter()).set("k", b"v", ttl=ttl)


def test_other_settings_that_cannot_be_used_are_named() -> None:
    for maxsize in (-1, 1.5, True):
        with pytest.raises(ValueError, match=r"^maxsize: "):
            loose_cache(maxsize=maxsize)
    with pytest.raises(ValueError, match=r"^name: "):
        TTLCache(name="")
    with pytest.raises(TypeError, match=r"^backend: "):
        loose_cache(backend=object())
    for option in ({"jitter": 1}, {"early": -1}, {"stale_ttl": float("inf")}, {"early": "x"}):
        with pytest.raises(ValueError, match=f"^{next(iter(option))}: "):
            loose_cached(TTLCache(), **option)(function)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(_json)
def test_json_is_the_same_with_and_without_orjson(value: Any) -> None:
    assert JsonSerializer().dumps(value) == _standard_dumps(value)
    assert JsonSerializer().loads(_standard_dumps(value)) == value


def test_json_writes_dates_in_iso_8601_either_way() -> None:
    value = {
        "at": datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC),
        "on": date(2026, 1, 2),
        "id": UUID(int=7),
        "color": Color.RED,
        "point": Point(1, []),
    }
    assert JsonSerializer().dumps(value) == _standard_dumps(value)
    assert (
        JsonSerializer().loads(_standard_dumps(value))["at"] == "2026-01-02T03:04:05.000600+00:00"
    )


@pytest.mark.parametrize("dumps", [JsonSerializer().dumps, _standard_dumps])
def test_what_has_no_form_in_json_is_named_with_the_serializer_that_has_one(dumps: Any) -> None:
    with pytest.raises(TypeError, match="Price") as refused:
        dumps([Price(cents=3)])
    why = refused.value.__cause__ or refused.value  # orjson has a message of its own
    assert "PydanticSerializer" in str(why)


class Never:
    """A serializer that must not be asked."""

    def dumps(self, value: Any) -> bytes:
        return pickle.dumps(value)

    def loads(self, data: bytes) -> Any:
        raise AssertionError("bytes with a bad signature were read")


def test_a_bad_signature_is_never_unpickled() -> None:
    old, new = "an old secret of ours", b"a new secret of ours"
    signed = SignedSerializer(Never(), new)
    data = signed.dumps({"a": 1})
    for bad in (b"", data[:20], data[:-1], b"\0" + data[1:], data[:-1] + b"\0", pickle.dumps(1)):
        with pytest.raises(ValueError, match="signature"):
            signed.loads(bad)
    rotated = SignedSerializer(PickleSerializer[Any](), [new, old])
    assert rotated.loads(SignedSerializer(PickleSerializer[Any](), old).dumps([1])) == [1]
    assert "secret of ours" not in repr(rotated)
    for short in ("short", [], ["long enough for a secret", "short"]):
        with pytest.raises(ValueError, match=r"^secret: "):
            SignedSerializer(Never(), short)


def test_an_entry_cannot_inflate_without_end() -> None:
    small = CompressedSerializer(PickleSerializer[bytes](), max_size=1000)
    large = CompressedSerializer(PickleSerializer[bytes]())
    bomb = large.dumps(b"\0" * 1_000_000)
    assert len(bomb) < 2000
    assert large.loads(bomb) == b"\0" * 1_000_000
    for bad in (bomb, large.dumps(b"\0" * 900)[:-3], b"", b"\x07"):
        with pytest.raises(ValueError, match=r"entry|cut short"):
            small.loads(bad)
    with pytest.raises(ValueError, match="max_size"):
        small.dumps(b"\0" * 1000)
    incompressible = os.urandom(500)
    assert large.loads(large.dumps(incompressible)) == incompressible


async def test_an_entry_that_cannot_be_read_is_a_miss_told_once_and_overwritten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = MemoryCacheAdapter()
    cache = TTLCache[User](backend=backend, serializer=PydanticSerializer(User))
    for key in ("a", "b"):
        await backend.set(key=key, value=b'{"id": "geheim"}', ttl=60)
    assert await cache.get("a") is None
    assert await cache.get_or_set("b", lambda: User(id=2, joined=date(2026, 1, 2))) is not None
    assert await cache.get("b") == User(id=2, joined=date(2026, 1, 2))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "geheim" not in caplog.text


@given(st.text(alphabet="~:a01"), st.text(alphabet="~:a01", min_size=1))
async def test_caches_never_see_each_others_keys(key: str, name: str) -> None:
    backend = MemoryCacheAdapter()
    other = name.swapcase() + "a"
    caches = [TTLCache[bytes](backend=backend, name=each) for each in (None, name, other)]
    spellings = {key, f"{name}:{key}", f"~{name}:{key}", f"~:{key}", f"~{name}~tag:{key}"}
    for number, cache in enumerate(caches):
        for spelling in spellings:
            await cache.set(spelling, b"%d" % number)
    for number, cache in enumerate(caches):
        assert {await cache.get(spelling) for spelling in spellings} == {b"%d" % number}
        assert cache.cache_info().currsize == len(spellings)
    await caches[1].clear()
    assert await caches[1].get(key) is None
    assert await caches[2].get(key) == b"2"
    assert await caches[0].get(key) == b"0"
