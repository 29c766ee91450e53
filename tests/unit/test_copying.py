"""How far a copy is, and what is copied from where."""

from collections.abc import Iterable
from itertools import permutations

import pytest

from replication.copying import CopyProgress, Span, copies
from replication.position import order_of
from replication.schema import TableMapping


@pytest.mark.parametrize(
    "progress",
    [
        CopyProgress(),
        CopyProgress(7, b"\x00\xff", True, order_of(2**64 - 1, 2**32 - 1)),
        CopyProgress(7, b"c", apart=(Span(b"e", b"g"), Span(b"\x00", None))),
    ],
)
def test_progress_survives_storage(progress):
    assert CopyProgress.load(progress.dump()) == progress


def test_a_copy_that_never_started_has_no_progress():
    assert CopyProgress.load(None) == CopyProgress(0, None, False, 0)


def test_progress_of_an_older_version_is_read():
    stored = '{"done_rows": 7, "last_key": "6b", "finished": false, "high": "1f"}'
    assert CopyProgress.load(stored) == CopyProgress(7, b"k", False, 31)


def test_ranges_may_become_durable_in_any_order():
    spans = [Span(None, b"b"), Span(b"b", b"d"), Span(b"d", b"f"), Span(b"f", b"h"), Span(b"h", None)]
    for order in permutations(range(5)):
        progress = CopyProgress()
        for done, at in enumerate(order):
            assert not progress.finished
            progress = CopyProgress.load(progress.with_done(spans[at], at, at).dump())
            assert _covered(progress.left()) == _covered(spans[i] for i in order[done + 1 :])
            assert len(progress.apart) <= 2
        assert (progress.finished, progress.done_rows, progress.high) == (True, 10, 4)
        assert progress.left() == []


def _covered(spans: Iterable[Span]) -> set[bytes]:
    """The letters that lie in the spans."""
    letters = [b"%c" % n for n in range(ord("a"), ord("k"))]
    return {k for s in spans for k in letters if ((s.after or b"") < k and s.goes_on(k)) or k == s.until}


def test_which_tables_are_copied_from_where():
    tables = [
        TableMapping(name, ("id",), {}, initial=initial)
        for name, initial in (("one", "pg"), ("both", "merge"), ("no", "none"))
    ]
    assert copies(tables, ["pg", "mongo"]) == [("one", "pg"), ("both", "pg"), ("both", "mongo")]
