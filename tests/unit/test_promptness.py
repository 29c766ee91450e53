import pytest

from actors.promptness import LATELY_SECONDS, Promptness
from replication.pacing import CALM, Load


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def prompt(clock: Clock) -> Promptness:
    return Promptness(["my", "pg"], clock)


def load(lag: float, apply: float) -> Load:
    return Load(lag, "my", apply, "my")


def test_nobody_is_late_before_anything_was_sent(prompt: Promptness) -> None:
    assert (prompt.load().lag, prompt.load().apply) == (CALM.lag, CALM.apply)


def test_the_longest_of_lately_counts_and_is_forgotten(prompt: Promptness, clock: Clock) -> None:
    for number, (took, lag) in enumerate([(2.0, 7.0), (1.0, 3.0), (0.5, 4.0)]):
        prompt.asked("my", number)
        clock.now += took
        prompt.answered("my", number, lag)
    assert prompt.load() == load(7.0, 2.0)
    clock.now += LATELY_SECONDS - 1.0  # the first answer is too old now
    assert prompt.load() == load(4.0, 1.0)
    clock.now += 0.6
    assert prompt.load() == load(4.0, 0.5)
    clock.now += 1.0
    assert (prompt.load().lag, prompt.load().apply) == (0.0, 0.0)


def test_a_node_that_has_not_answered_takes_as_long_as_it_has_taken(prompt: Promptness, clock: Clock) -> None:
    prompt.asked("my", 1)
    clock.now += 4.0
    prompt.asked("my", 2)
    prompt.asked("my", 1)  # sent again: it has been waiting since the first time
    clock.now += 3.0
    assert prompt.load().apply == 7.0
    prompt.answered("my", 1, 0.0)
    assert prompt.load().apply == 7.0
    clock.now += LATELY_SECONDS + 1.0
    assert prompt.load().apply == 7.0
    prompt.answered("my", 2, 0.0)
    clock.now += LATELY_SECONDS + 1.0
    assert prompt.load().apply == 0.0


def test_the_worst_node_is_named(prompt: Promptness, clock: Clock) -> None:
    prompt.answered("pg", 1, 2.0)
    prompt.asked("my", 1)
    clock.now += 1.0
    assert prompt.load() == Load(2.0, "pg", 1.0, "my")
