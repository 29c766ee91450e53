"""Readers of a simulated copy, which take turns by the schedule."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from actors.reading import Assignment, Read, steps


class Killed(Exception):
    """The reader's process ended here."""


class Crew:
    """Readers in one thread: a step of one of them is a step of the world."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.workers = 1
        self.at_work: list[tuple[Iterator[Read | None], Future[Read]]] = []
        self.stepping: set[int] = set()

    @property
    def free(self) -> int:
        return max(0, self.workers - len(self.at_work))

    def submit(self, assignment: Assignment) -> Future[Read]:
        assert self.free
        reading: Future[Read] = Future()
        self.at_work.append((steps(assignment, self.world, self.world), reading))
        return reading

    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    def step(self, number: int, *, kill: bool = False) -> None:
        """Let one of those go on who are not in the middle of a step, or end it there."""
        able = [w for w in self.at_work if id(w[0]) not in self.stepping]
        if not able:
            return
        worker = able[number % len(able)]
        reader, reading = worker
        self.stepping.add(id(reader))
        try:
            if kill:
                raise Killed
            if (read := next(reader)) is not None:
                self.at_work.remove(worker)
                reading.set_result(read)
        except Killed as killed:
            self.at_work.remove(worker)
            reading.set_exception(killed)
            if not kill:  # not this one, but the process that the copy runs in
                raise
        finally:
            self.stepping.discard(id(reader))
