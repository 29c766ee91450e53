"""Which records of the audit log are asked for: the same filters for pages and for the live stream."""

from __future__ import annotations

from argparse import Namespace
from typing import Annotated, Literal

from fastapi import Depends, Query

Text = Annotated[str | None, Query(max_length=1_000)]
Cursor = Annotated[str | None, Query(max_length=8_000)]


def filters(
    since: Text = None,
    until: Text = None,
    table: Text = None,
    key: Text = None,
    op: Literal["insert", "update", "delete", "read"] | None = None,
    node: Text = None,
    kind: Literal["change", "decision", "conflict", "hold", "operator"] | None = None,
    actor: Literal["application", "resolver", "operator"] | None = None,
    outcome: Text = None,
    trace: Text = None,
) -> Namespace:
    """What `audit_query.query_of` takes."""
    return Namespace(**locals())


Filters = Annotated[Namespace, Depends(filters)]
