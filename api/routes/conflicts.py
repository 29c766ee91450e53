"""`/conflicts`: what is on record, and deciding what awaits a person."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request

from api.access import Principal, Role, at_least
from api.backend import Backend
from api.models import ConflictModel, Conflicts, ResolveAsked
from api.problems import Refusal, documented
from cluster.commands.conflicts import find, image_of, seen, state_of
from cluster.resolve import plan
from cluster.topology import load_tables
from replication.audit.access import View
from replication.audit.query import Query as AuditQuery
from replication.audit.query import page
from replication.audit.undecided import undecided
from replication.errors import ConfigError, Terminal

router = APIRouter(
    prefix="/conflicts", tags=["conflicts"], responses=documented(400, 401, 403, 413, 422, 429, 503)
)
AUDITOR, OPERATOR = at_least(Role.AUDITOR), at_least(Role.OPERATOR)
_ID = re.compile(r"[0-9a-f]{8}")


@router.get("", summary="Recorded conflicts, page by page")
def conflicts(
    request: Request,
    state: Literal["open", "all"] = "all",
    table: Annotated[str | None, Query(max_length=1_000)] = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    cursor: Annotated[str | None, Query(max_length=8_000)] = None,
    who: Principal = AUDITOR,
) -> Conflicts:
    """Oldest first. `state=open` gives all that await a decision, in one page."""
    backend: Backend = request.app.state.backend
    folder, keys, view = backend.config.audit_path, backend.keys(), backend.view(who)
    awaiting = undecided(folder, keys)
    if state == "open":
        mine = [c for c in awaiting.values() if table in (None, c["table"])]
        return Conflicts(conflicts=[_model(c, awaiting, view) for c in mine])
    found, after = page(folder, AuditQuery(kind="conflict", table=table), limit, cursor, keys)
    there = [c for c in found if not c.get("_erased")]
    return Conflicts(conflicts=[_model(c, awaiting, view) for c in there], next=after)


@router.get("/{id}", summary="One conflict", responses=documented(404))
def conflict(id: str, request: Request, who: Principal = AUDITOR) -> ConflictModel:
    """Both versions, the winner and the policy."""
    backend: Backend = request.app.state.backend
    keys, view = backend.keys(), backend.view(who)
    return _model(_found(backend, id, view), undecided(backend.config.audit_path, keys), view)


@router.post("/{id}/resolve", summary="Decide an open conflict", responses=documented(404, 409))
def resolve(id: str, asked: ResolveAsked, request: Request, who: Principal = OPERATOR) -> Conflicts:
    """Returns once every node has the row of `take`, with the values of `set`; the row's other open conflicts
    are resolved by it, too.
    """
    backend: Backend = request.app.state.backend
    awaiting, view = undecided(backend.config.audit_path, backend.keys()), backend.view(who)
    chosen = [c for c in awaiting.values() if seen(c, view)["id"] == id]
    if not chosen:
        state = state_of(_found(backend, id, view), awaiting)
        raise Refusal(
            409, f"the conflict is {state}", hint="GET /conflicts?state=open gives what can be resolved"
        )
    given = {name: _text(value) for name, value in asked.set.items()}
    tables = {t.name: t for t in load_tables(backend.config)}
    steps = plan(tables, chosen, awaiting.values(), asked.take, given)
    with backend.way(who).open() as group:
        for step in steps:
            try:
                step.carry_out(group)
            except Terminal as error:  # it may quote the row
                if view.is_clear(step.table.name):
                    raise
                raise Refusal(409, f"the row of {step.node} cannot be taken", hint=error.hint) from error
    return Conflicts(conflicts=[_model(c, (), view) for step in steps for c in step.conflicts])


def _text(value: str | int | bool | None) -> str | None:
    return (
        ("true" if value else "false") if isinstance(value, bool) else None if value is None else str(value)
    )


def _found(backend: Backend, ident: str, view: View) -> dict[str, Any]:
    hint = "GET /conflicts gives the IDs"
    if not _ID.fullmatch(ident):
        raise Refusal(404, "no such conflict", hint=hint)
    try:
        return find(backend.config.audit_path, backend.keys(), ident, view)
    except ConfigError as error:
        raise Refusal(404, "no such conflict", hint=hint) from error


def _model(conflict: dict[str, Any], awaiting: Container[str], view: View) -> ConflictModel:
    shown = seen(conflict, view)
    sides = {side: image_of(shown, side) for side in ("left", "right")}
    found = {k: v for k, v in shown.items() if not k.endswith("_image")}
    return ConflictModel(**found, **sides, state=state_of(conflict, awaiting))  # type: ignore[arg-type]
