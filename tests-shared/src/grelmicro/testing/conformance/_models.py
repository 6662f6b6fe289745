"""Comparing a backend with a model of it, after histories that Hypothesis finds."""

import asyncio
from collections.abc import Awaitable
from typing import Any, ClassVar

from grelmicro.testing.conformance._subject import Subject, turn

__all__ = ["Machine", "agree"]

_HISTORIES = 40

Step = tuple[str, int, int]


class Machine:
    """An adapter beside its model; a subclass has the steps.

    Args:
        adapter: An empty one, opened.
    """

    steps: ClassVar[tuple[str, ...]]
    lengths: ClassVar[tuple[int, int]] = 10, 40
    """Steps of a history as it is made; the shortest that shows a defect may have fewer."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter
        self.begin()

    def begin(self) -> None:
        """Make the model of an empty backend."""
        raise NotImplementedError

    def can(self, step: str) -> bool:
        """Whether the adapter has what a step needs."""
        raise NotImplementedError

    def do(self, step: str, first: int, second: int) -> Awaitable[None]:
        """Do a step to both and compare them; two small numbers choose what it is done with."""
        raise NotImplementedError

    async def end(self) -> None:
        """End what steps have begun."""


async def agree(subject: Subject, kind: str, machine: type[Machine]) -> None:
    """See that a backend and its model agree, whatever was done before.

    Every history has an event loop and an empty space of its own. It is the same in every run.

    Raises:
        BrokenPromiseError: They do not; the shortest history that shows it is told.
    """
    await asyncio.to_thread(_explore, subject, kind, machine)


def _explore(subject: Subject, kind: str, machine: type[Machine]) -> None:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    step = st.tuples(st.sampled_from(machine.steps), st.integers(0, 2), st.integers(0, 2))
    shortest, longest = machine.lengths
    steps = st.lists(st.none() | step | step | step, min_size=shortest, max_size=longest)
    space, count = turn.get(), 0

    @settings(
        max_examples=_HISTORIES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[*HealthCheck],
    )
    @given(steps)
    def replay(found: list[Step | None]) -> None:
        nonlocal count
        history = [
            each for each in found if each is not None
        ]  # which makes short ones of long ones
        count += 1
        turn.set(f"{space}_{count}")
        try:
            asyncio.run(_replay(subject, kind, machine, history))
        except Exception as error:
            error.add_note(f"after {history}")
            raise

    replay()


async def _replay(subject: Subject, kind: str, machine: type[Machine], history: list[Step]) -> None:
    async with subject.open(kind) as adapter:
        it = machine(adapter)
        try:
            for step, first, second in history:
                if it.can(step):
                    await it.do(step, first, second)
        finally:
            await it.end()
