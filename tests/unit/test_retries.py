"""When a row that a node refuses is sent again, and when it is given up."""

from __future__ import annotations

from replication.audit.holds import HoldRecord, full_id
from replication.retries import Agenda, Deferred, RetryPlan

PLAN = RetryPlan(tries=3, first_seconds=10, max_seconds=35)


def hold(key: str = "k", node: str = "pg", origin: str = "mongo", reason: str = "no") -> HoldRecord:
    return HoldRecord(node, "orders", key.encode(), key, origin, 1, 0, reason)


def ident(record: HoldRecord) -> str:
    return full_id(record.node, record.table, record.key)


def test_pauses_double_up_to_the_longest_by_chance_up_to_half_as_short() -> None:
    assert [PLAN.longest(n) for n in range(4)] == [10, 20, 35, 35]
    assert PLAN.pauses() == [10, 20, 35]
    assert (PLAN.pause(1, 0.0), PLAN.pause(1, 1.0)) == (10, 20)
    assert RetryPlan(tries=100_000, first_seconds=1, max_seconds=4).longest(99_999) == 4


def test_a_row_is_tried_so_often_and_is_then_a_dead_letter() -> None:
    agenda, row = Agenda(PLAN), hold()
    [entry] = agenda.held([row], now=100, luck=1).defer
    assert entry == Deferred(ident(row), 0, 110)
    for tries, due in ((1, 130), (2, 145)):
        out = agenda.tried([entry], {ident(row)}, now=110, luck=1)
        assert (out.confirm, out.bury) == ([entry], [])
        [entry] = out.defer
        assert entry == Deferred(ident(row), tries, due)
    out = agenda.tried([entry], {ident(row)}, now=200, luck=1)
    assert (out.confirm, out.defer, out.bury) == ([entry], [], [(row, 3)])
    assert agenda.open == {}


def test_a_row_that_is_taken_is_done() -> None:
    agenda = Agenda(PLAN)
    [entry] = agenda.held([hold()], 0, 1).defer
    out = agenda.tried([entry], set(), 10, 1)
    assert (out.confirm, out.defer, out.bury) == ([entry], [], [])
    assert (agenda.open, agenda.dead) == ({}, {})


def test_a_message_that_comes_twice_or_late_is_of_no_account() -> None:
    agenda = Agenda(PLAN)
    [entry] = agenda.held([hold()], 0, 1).defer
    unknown = Deferred("unknown", 0, 0)
    assert agenda.chosen([entry, entry, unknown]) == ([entry], [entry, unknown])
    agenda.tried([entry], {entry.ident}, 10, 1)
    assert agenda.chosen([entry]) == ([], [entry]), "it has been tried since"


def test_a_refusal_while_a_row_waits_defers_it_no_second_time() -> None:
    agenda = Agenda(PLAN)
    agenda.held([hold()], 0, 1)
    newer = hold(reason="still no")
    assert agenda.held([newer], 5, 1).defer == []
    assert agenda.open[ident(newer)].hold.reason == "still no"


def test_a_node_that_is_away_costs_no_try() -> None:
    agenda = Agenda(PLAN)
    [entry] = agenda.held([hold()], 0, 1).defer
    out = agenda.postponed([entry], 100, 1)
    assert (out.confirm, out.defer) == ([entry], [Deferred(entry.ident, 0, 110)])


def test_a_dead_letter_that_is_refused_anew_begins_again() -> None:
    agenda = Agenda(PLAN)
    agenda.begin([hold()], {ident(hold()): 3}, [], 0, 1)
    assert agenda.dead.keys() == {ident(hold())}
    [entry] = agenda.held([hold()], 50, 1).defer
    assert (entry.tries, agenda.dead) == (0, {})


def test_a_dead_letter_of_another_node_stays_dead_when_its_row_is_sent_again() -> None:
    agenda, mine, other = Agenda(PLAN), hold(), hold(node="my")
    agenda.begin([mine, other], {ident(other): 3}, [Deferred(ident(mine), 1, 5)], 0, 1)
    out = agenda.tried([Deferred(ident(mine), 1, 5)], {ident(other)}, 10, 1)
    assert out.bury == [(other, 3)]
    assert agenda.dead.keys() == {ident(other)}


def test_a_start_defers_what_the_queue_has_lost_and_goes_on_with_the_rest() -> None:
    agenda, kept, lost = Agenda(PLAN), hold("kept"), hold("lost")
    waits = [Deferred(ident(kept), 1, 500), Deferred(ident(kept), 2, 600), Deferred("landed", 0, 9)]
    out = agenda.begin([kept, lost], {}, waits, now=100, luck=1)
    assert out.defer == [Deferred(ident(lost), 0, 110)]
    assert agenda.open[ident(kept)].tries == 2
    assert agenda.chosen(waits) == ([waits[1]], [waits[0], waits[2]])


def test_what_cannot_be_read_is_a_dead_letter_at_once() -> None:
    agenda, unreadable, keyless = Agenda(PLAN), hold(node="mongo"), hold(key="")
    out = agenda.held([unreadable, keyless], 0, 1)
    assert (out.defer, out.bury) == ([], [(unreadable, 0), (keyless, 0)])


def test_nothing_is_sent_again_with_no_tries() -> None:
    out = Agenda(RetryPlan(tries=0)).held([hold()], 0, 1)
    assert (out.defer, out.bury) == ([], [(hold(), 0)])


def test_two_nodes_that_refuse_each_others_version_wait_for_a_person() -> None:
    """To send either would put an older write in the place of a newer one."""
    agenda, one, two = Agenda(PLAN), hold(node="pg", origin="mongo"), hold(node="mongo", origin="pg")
    [entry] = agenda.held([one], 0, 1).defer
    out = agenda.held([two], 1, 1)
    assert out.defer == []
    assert {h.node for h, _ in out.bury} == {"pg", "mongo"}
    assert agenda.chosen([entry]) == ([], [entry])
