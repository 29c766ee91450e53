"""The `where` of a table: what is read, and what is said of every mistake."""

from __future__ import annotations

import pytest

from replication.schema import Condition
from tests.unit.test_config import complaints, read

TESTS = "use one of: eq, ne, in, not_in, lt, lte, gt, gte, null"
FILE = """\
group: shop
nodes:
  pg: {engine: postgres, dsn: "postgresql://127.0.0.1/shop"}
  my: {engine: mysql, dsn: "mysql://127.0.0.1/shop"}
tables:
  orders:
    key: [id]
"""


def test_conditions_and_alternatives_are_read() -> None:
    first, second = "{region: [eu, uk], amount: {gte: 10, lt: 20}}", "{vip: true, note: {null: false}}"
    text = f"{FILE}    where: {{my: [{first}, {second}]}}\n"
    assert read(text).tables[0].where == {
        "my": (
            (
                Condition("region", "in", ("eu", "uk")),
                Condition("amount", "gte", ("10",)),
                Condition("amount", "lt", ("20",)),
            ),
            (Condition("vip", "eq", ("true",)), Condition("note", "null", ("false",))),
        )
    }


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("where: {mi: {id: 1}}", "8: tables.orders.where.mi: no node called 'mi' | use one of: pg, my"),
        (
            "where: {my: {id: 1}, pg: {id: 2}}",
            "8: tables.orders.where: every node has a filter | leave out the node that holds every row",
        ),
        (
            "where: {my: {id: {gt: 1, more: 2}}}",
            f"8: tables.orders.where.my.id.more: unknown key | {TESTS}",
        ),
        (
            "where: {my: {region: null}}",
            "8: tables.orders.where.my.region: no comparison holds for a null | write {null: true}",
        ),
        (
            "where: {my: {region: {in: []}}}",
            "8: tables.orders.where.my.region.in: the list is empty | name at least 1",
        ),
        ("where: {my: []}", "8: tables.orders.where.my: the list is empty | name at least one alternative"),
        (
            "where: {my: {}}",
            "8: tables.orders.where.my: no column is asked about | "
            "write column: value, or leave the node out",
        ),
        (
            "where: {my: {region: {}}}",
            f"8: tables.orders.where.my.region: nothing is asked of the column | {TESTS}",
        ),
        ("where: {my: eu}", "8: tables.orders.where.my: expected a mapping, found a single value | "),
        (
            "where: {my: {id: {null: maybe}}}",
            "8: tables.orders.where.my.id.null: 'maybe' is not known here | use one of: true, false",
        ),
        (
            "where: {my: {id: 1}}\n    conflict: [merge_fields]",
            "8: tables.orders.where: a table with a filter cannot use merge_fields in this release | "
            "use last_write_wins, source_priority or a policy of your own",
        ),
        (
            "where: {my: {id: 1}}\n    conflict: [manual]",
            "8: tables.orders.where: a table with a filter cannot use manual in this release | "
            "use last_write_wins, source_priority or a policy of your own",
        ),
        (
            "where: {my: {id: 1}}\n    truncate: carry",
            "8: tables.orders.where: a table with a filter cannot carry a TRUNCATE | "
            "use halt or ignore: a TRUNCATE says nothing of the rows that a node does not hold",
        ),
    ],
)  # fmt: skip
def test_every_mistake_names_its_place_and_its_fix(line: str, found: str) -> None:
    assert complaints(f"{FILE}    {line}\n") == [f"sync.yaml:{found}"]
