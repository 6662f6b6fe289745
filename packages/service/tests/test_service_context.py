"""Components, layers, and what is not seen outside of them."""

import asyncio
from typing import Any

import pytest

from grelmicro.service import context


class Animal:
    pass


class Dog(Animal):
    pass


class Puppy(Dog):
    pass


def test_a_component_is_found_by_its_class_its_bases_and_nothing_else() -> None:
    dog = Dog()
    with context.child():
        assert context.add(dog) is dog
        assert context.get(Dog) is dog
        assert context.get(Animal) is dog
        assert context.get(Puppy, default=None) is None
        with pytest.raises(LookupError):
            context.get(object)


def test_by_name_with_class_and_without() -> None:
    with context.child():
        one, two, plain = context.add(Dog(), name="one"), context.add(Dog(), name="two"), Dog()
        assert context.get(Dog, default=None) is None
        assert context.get(Dog, name="one") is one
        assert context.get(Animal, name="two") is two
        assert context.get("one") is one
        context.add(plain)
        assert context.get(Dog) is plain
        assert context.find(Dog) == {None: plain, "one": one, "two": two}


@pytest.mark.parametrize("order", [[Dog, Puppy], [Puppy, Dog]])
def test_its_own_class_means_it_whatever_was_added_last(order: list[type[Dog]]) -> None:
    with context.child():
        for cls in order:
            context.add(cls())
        assert type(context.get(Dog)) is Dog
        assert type(context.get(Puppy)) is Puppy


def test_a_missing_one_is_named_and_so_are_others_of_its_class() -> None:
    with context.child():
        context.add(Dog(), name="rex")
        with pytest.raises(LookupError, match=r"no Dog in the context; there is 'rex'"):
            context.get(Dog)
        with pytest.raises(LookupError, match=r"no Dog named 'fido'"):
            context.get(Dog, name="fido")
        with pytest.raises(LookupError, match=r"a component named 'nobody'"):
            context.get("nobody")


def test_a_class_is_no_component() -> None:
    with context.child(), pytest.raises(ValueError, match=r"add\(Dog\)"):
        context.add(Dog)
    with context.child(), pytest.raises(ValueError, match="name"):
        context.add(Dog(), name="")


def test_the_nearest_layer_counts_and_is_forgotten() -> None:
    with context.child():
        outer = context.add(Dog())
        with context.child():
            assert context.get(Dog) is outer
            inner = context.add(Dog())
            named = context.add(Dog(), name="near")
            assert context.get(Dog) is inner
            assert context.find(Dog) == {None: inner, "near": named}
        assert context.get(Dog) is outer
        assert context.find(Dog) == {None: outer}


def test_push_and_pop() -> None:
    with context.child():
        pushed = context.push()
        context.add(Dog())
        assert context.pop() is pushed
        assert context.get(Dog, default=None) is None


def test_pop_without_push() -> None:
    with context.entered(context.Context()), pytest.raises(LookupError, match="push"):
        context.pop()


async def test_a_task_does_not_see_the_layer_of_another() -> None:
    seen: list[Any] = []
    inside, checked = asyncio.Event(), asyncio.Event()

    async def one() -> None:
        with context.child():
            context.add(Dog())
            inside.set()
            await checked.wait()

    async def other() -> None:
        await inside.wait()
        seen.append(context.get(Dog, default=None))
        checked.set()

    await asyncio.gather(one(), other())
    assert seen == [None]


def test_tests_add_without_a_stage_one() -> None:
    context.add(Dog())
    assert context.get(Dog)


def test_tests_add_without_a_stage_two() -> None:
    assert context.get(Dog, default=None) is None
