"""Columns whose precision changes while the group runs: what is written is checked by the new one."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from replication.audit.reader import read
from replication.audit.records import DECISIONS
from tests.fixtures.evolving import apps, group_config, running

CREATE = "CREATE TABLE orders (id int PRIMARY KEY, price numeric(6,2))"
ALTER = {
    "pg": "ALTER TABLE orders ALTER price TYPE numeric({0})",
    "my": "ALTER TABLE orders MODIFY price decimal({0})",
}


@pytest.fixture
def dsns(postgres_db: str, mysql_db: str) -> dict[str, str]:
    return {"pg": postgres_db, "my": mysql_db}


@pytest.mark.parametrize("node", ["pg", "my"])
def test_a_narrowed_column_holds_what_it_would_round(dsns: dict[str, str], tmp_path: Path, node: str) -> None:
    """With `ignore` nothing is carried, yet the old declaration counts no longer."""
    other = "my" if node == "pg" else "pg"
    ends = {node: dsns[node], other: dsns[other]}
    config = group_config(tmp_path, ends)
    with apps(ends) as nodes:
        nodes[node].sql(CREATE)
        with running(config) as group:
            nodes[node].insert(1, price="1.50")
            group.until(lambda: 1 in nodes[other].rows())
            nodes[node].sql(ALTER[node].format("5,1"))
            nodes[node].insert(2, price="2.5")  # PostgreSQL's log shows the change with the next row
            group.until(lambda: group.incarnations == 2 and 2 in nodes[other].rows())
            nodes[other].insert(3, price="3.25")
            nodes[other].insert(4, price="4.5")
            group.until(lambda: 4 in nodes[node].rows())
            assert 3 not in nodes[node].rows()
    outcomes = [r["outcome"] for batch in read(config.audit_path, DECISIONS) for r in batch.to_pylist()]
    assert outcomes.count("held") == 1


def test_more_digits_are_carried_while_the_group_runs(dsns: dict[str, str], tmp_path: Path) -> None:
    """The type is the same one in PostgreSQL's log, but for its modifier."""
    ends = {"pg": dsns["pg"], "my": dsns["my"]}
    config = group_config(tmp_path, ends, "orders: {key: [id], schema: evolve}")
    with apps(ends) as nodes:
        nodes["pg"].sql(CREATE)
        with running(config) as group:
            nodes["pg"].insert(1, price="1.50")
            group.until(lambda: 1 in nodes["my"].rows())
            nodes["pg"].sql(ALTER["pg"].format("8,3"))
            nodes["pg"].insert(2, price="2.125")
            group.until(lambda: nodes["my"].rows("price").get(2) == (Decimal("2.125"),))
