"""What every circuit breaker backend promises: its circuits, its life, cancelled questions."""

import asyncio
import inspect
import random
from time import monotonic
from typing import Any

from grelmicro.resilience import CircuitBreakerBackend, CircuitBreakerConfig
from grelmicro.resilience import CircuitBreakerState as State
from grelmicro.testing.conformance._kit import clause, promise, same
from grelmicro.testing.conformance._subject import Subject
from grelmicro.testing.conformance.circuitbreaker import breaker, fails, passes

_PERMIT = 3.0
"""Seconds after which a permit that was given back can be had."""


@clause("circuitbreaker.call.by_keyword", closed=True)
async def call_by_keyword(subject: Subject) -> None:
    """`circuit` can be called with the contract's keywords, and needs no more than those.

    Breakers use keywords, so that backends can be wrapped. Name the parameters as the contract
    does, and give others a default.
    """
    backend = subject.adapter("circuitbreaker", subject.provider())
    try:
        inspect.signature(backend.circuit).bind(name="n", config=CircuitBreakerConfig())
    except TypeError as error:
        promise(False, f"circuit(name, config): {error}")


@clause("circuitbreaker.circuit.same", closed=True)
async def circuit_same(subject: Subject) -> None:
    """A name and equal settings have one circuit, also before the backend is open, and in threads.

    Breakers of a module are made before there is a loop. Do no I/O in `circuit`. Remember what it
    has returned.
    """
    provider = subject.provider()
    backend = subject.adapter("circuitbreaker", provider)

    def circuit(name: str = "n", **settings: Any) -> Any:
        return backend.circuit(name=name, config=CircuitBreakerConfig(**settings))

    first = circuit()
    async with provider, backend:
        promise(circuit() is first, "another circuit after opening")
        promise(await asyncio.to_thread(circuit) is first, "another circuit in a thread")
        promise(circuit("other") is not first, "the same circuit for another name")
        promise(circuit(success_threshold=7) is not first, "the same circuit for other settings")


@clause("circuitbreaker.open.notes_its_loop", closed=True)
async def open_notes_its_loop(subject: Subject) -> None:
    """`_loop` is the loop it was opened on, and None before and after.

    Callers in threads find their way by it. Set it in `__aenter__`, and forget it in `__aexit__`.
    """
    provider = subject.provider()
    async with provider:
        backend = subject.adapter("circuitbreaker", provider)
        same(backend._loop, None, "_loop before it is opened")
        async with backend:
            promise(
                backend._loop is asyncio.get_running_loop(), "the running loop while it is open"
            )
        same(backend._loop, None, "_loop after it was closed")


@clause("circuitbreaker.life.reopens", closed=True)
async def life_reopens(subject: Subject) -> None:
    """It can be closed and opened again, with its provider, and breakers on it work then.

    Tests open an application again and again. Begin in `__aenter__` what `__aexit__` ends.
    """
    provider = subject.provider()
    backend = subject.adapter("circuitbreaker", provider)
    for turn in range(3):
        each = breaker(backend, f"turn {turn}")
        async with provider, backend:
            for _ in range(3):
                await fails(each)
            same(each.state, State.OPEN, f"after three errors, opened for the {turn + 1}. time")
            await each.transition_to_half_open()
            same(await passes(each), True, "let through half-open")
            same(each.state, State.CLOSED, "after a success")


@clause("circuitbreaker.life.leaves_no_task", closed=True)
async def life_leaves_no_task(subject: Subject) -> None:
    """When backend and provider are closed, none of their tasks runs any more.

    A task that stays holds connections and warns at exit. Report what is left to be reported, and
    end what runs in the background.
    """
    before = asyncio.all_tasks()
    async with subject.open("circuitbreaker") as backend:
        each = breaker(backend)
        await fails(each)
        await each.transition_to_half_open()
        await passes(each)
        each.transition_to_open()
    for _ in range(10):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - before
    promise(not left, f"{len(left)} tasks are left: {[task.get_coro() for task in left][:3]}")


@clause("circuitbreaker.cancel.while_asking")
async def cancel_while_asking(backend: CircuitBreakerBackend) -> None:
    """Half-open, a call that is cancelled at whatever moment keeps no permit.

    Clients leave while it is found out whether they may call. What is granted to nobody would keep
    the breaker half-open for ever. Give back what was granted, or will be.
    """
    chance, loop = random.Random(5), asyncio.get_running_loop()  # noqa: S311  # no secret
    each = breaker(backend, success_threshold=999)
    await each.transition_to_half_open()
    for ticks in range(30):
        call = asyncio.create_task(passes(each))
        for _ in range(ticks if ticks < 15 else 0):
            await asyncio.sleep(0)
        if ticks < 15:
            call.cancel()
        else:
            loop.call_later(chance.uniform(0, 0.004), call.cancel)
        await asyncio.wait([call])
        until = monotonic() + _PERMIT
        while not await passes(each):
            promise(monotonic() < until, f"no permit, {_PERMIT:g} s after a call was cancelled")
            await asyncio.sleep(0.005)
    same(each.state, State.HALF_OPEN, "before there were as many successes as it takes")
