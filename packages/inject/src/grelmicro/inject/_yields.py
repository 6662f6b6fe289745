"""Where a provider's generator stands decides how it hears of its view's error.

A `yield` inside `try` or `with`, or inside a loop over another generator, gets the error thrown in:
a transaction rolls back. A bare `yield` is resumed: the clean-up below it runs. It is looked up
only when there is an error, at the very `yield` that is suspended.

What CPython would do with an exception there stands in the code object's exception table, whose
format is described in `Objects/exception_handling_notes.txt` of its sources. A handler of the
source begins with PUSH_EXC_INFO. The interpreter's own entries do not: the clean-up at the end of
an `except` block, the one around every `yield from`, and, from 3.12 on, the one over the whole body
that turns StopIteration into RuntimeError. Loops leave no entry; what they iterate over is on the
frame's stack.

Where none of this can be read (another implementation, compiled code, a later format), the error is
thrown in, which is what `contextlib` does: a transaction never commits by mistake.
"""

import dis
import gc
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import nullcontext
from functools import cache, lru_cache
from inspect import unwrap
from types import AsyncGeneratorType, CodeType, FrameType, GeneratorType
from typing import Any

__all__ = ["Suspended", "describe_yields", "takes_errors"]

Suspended = AsyncGenerator[Any, None] | Generator[Any, None, None]

_WRAPS = (("ASYNC_GEN_WRAP", None), ("CALL_INTRINSIC_1", 4))  # of 3.11, and of what came later
_LOOPS = {"FOR_ITER", "GET_ANEXT"}


def takes_errors(generator: Suspended) -> bool:
    """Whether an error belongs thrown in where `generator` stands, rather than resuming it."""
    return not _readable() or _looks_guarded(generator)


def describe_yields(function: Callable[..., Any]) -> str:
    """What a view's error does to a generator function, in words; for `explain`."""
    code = getattr(unwrap(function), "__code__", None)
    if code is None or not _readable():
        return "an error is thrown in"
    found = {_in_handler(code, offset) for offset in _yields(code)}
    if found == {True}:
        return "an error is thrown in"
    if found == {False} and not _LOOPS & {each.opname for each in dis.get_instructions(code)}:
        return "resumed after an error"
    return "the yield it stands at decides: an error is thrown in, or it is resumed"


def _looks_guarded(generator: object) -> bool:
    """Look at every generator on the way to the `yield`, `yield from` included."""
    below: object = generator
    while isinstance(below, AsyncGeneratorType | GeneratorType):
        frame, inner = _standing(below)
        if frame is None or _in_handler(frame.f_code, frame.f_lasti):
            return True
        if any(_is_delegate(each) for each in _stack(below, frame) if each is not inner):
            return True
        below = inner
    return below is generator  # of a kind that cannot be looked into


def _standing(
    generator: "AsyncGeneratorType[Any, Any] | GeneratorType[Any, Any, Any]",
) -> tuple[FrameType | None, object]:
    """Its frame, and what it delegates to by `yield from`."""
    if isinstance(generator, AsyncGeneratorType):
        return generator.ag_frame, None
    return generator.gi_frame, generator.gi_yieldfrom


def _is_delegate(thing: object) -> bool:
    return isinstance(thing, GeneratorType) or hasattr(type(thing), "__anext__")


def _stack(generator: object, frame: FrameType) -> Iterator[object]:
    """What a suspended frame refers to beyond its variables: above all what loops go over."""
    variables = Counter(map(id, frame.f_locals.values()))
    for each in gc.get_referents(generator):
        if variables[id(each)]:
            variables[id(each)] -= 1
        else:
            yield each


def _in_handler(code: CodeType, offset: int) -> bool:
    """Whether an exception at `offset` would reach a `try` or `with` of the source."""
    entries = _entries(code)
    while target := next((goal for start, end, goal in entries if start <= offset < end), None):
        if dis.opname[code.co_code[target]] == "PUSH_EXC_INFO":
            return True
        offset = target  # the interpreter's own clean-up, which raises again from there
    return False


@lru_cache(maxsize=1024)
def _entries(code: CodeType) -> tuple[tuple[int, int, int], ...]:
    """The exception table: start, end and handler, as offsets of bytes; no two ranges overlap."""
    numbers = _numbers(iter(code.co_exceptiontable))
    return tuple(
        (start * 2, (start + length) * 2, target * 2)
        for start, length, target, _depth in zip(*[numbers] * 4, strict=True)
    )


def _numbers(table: Iterator[int]) -> Iterator[int]:
    """Six bits a byte, the highest first; 64 says that more follow, 128 begins an entry."""
    for byte in table:
        number = byte & 63
        while byte & 64:
            byte = next(table)
            number = number << 6 | byte & 63
        yield number


def _yields(code: CodeType) -> Iterator[int]:
    """The offsets of what the source calls `yield`; awaiting compiles to YIELD_VALUE as well."""
    is_async = code.co_flags & 0x200  # CO_ASYNC_GENERATOR
    before: tuple[str, int | None] = ("", None)
    for each in dis.get_instructions(code):
        is_own = before in _WRAPS if is_async else before[0] != "SEND"
        if each.opname == "YIELD_VALUE" and is_own:
            yield each.offset
        before = (each.opname, each.arg)


@cache
def _readable() -> bool:
    """Whether this interpreter can be read: tried out on generators whose answer is known."""

    def bare() -> Generator[None]:
        yield

    def guarded() -> Generator[None]:
        with nullcontext():
            yield

    def looping() -> Generator[None]:
        for each in bare():  # noqa: UP028 - loops are what is tried out
            yield each

    def rows() -> Generator[int]:
        for each in (1,):  # noqa: UP028
            yield each

    try:
        return [*map(_answer, (bare, guarded, looping, rows))] == [False, True, True, False]
    except Exception:  # whatever is different there, it is not what is read here
        return False


def _answer(function: Callable[[], Generator[Any]]) -> bool:
    generator = function()
    next(generator)
    return _looks_guarded(generator)
