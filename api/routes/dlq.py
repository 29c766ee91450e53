"""`/dlq`: rows on hold."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from api.access import Principal, Role, at_least
from api.backend import Backend
from api.models import Discarded, Hold, Holds, Retried
from api.problems import Refusal, documented
from cluster.commands.dlq import discard, holds_of, retry, seen
from replication.audit.access import View

router = APIRouter(prefix="/dlq", tags=["dlq"], responses=documented(400, 401, 403, 413, 422, 429, 503))
AUDITOR, OPERATOR = at_least(Role.AUDITOR), at_least(Role.OPERATOR)


@router.get("", summary="Rows on hold")
def dlq(
    request: Request,
    table: Annotated[str | None, Query(max_length=1_000)] = None,
    who: Principal = AUDITOR,
) -> Holds:
    """Oldest first; see `sync-worker dlq list`."""
    backend: Backend = request.app.state.backend
    view = backend.view(who)
    found = [h for h in holds_of(backend.config) if table in (None, h["table"])]
    return Holds(holds=[Hold(**seen(h, view)) for h in found])


@router.post("/{id}/retry", summary="Send a row again", responses=documented(404, 409))
def retry_row(id: str, request: Request, who: Principal = OPERATOR) -> Retried:
    """Read it where it was written and send it; `again` says whether it is on hold again, and why."""
    backend: Backend = request.app.state.backend
    view = backend.view(who)
    [(hold, reason)] = retry(backend.way(who), [_found(backend, id, view)])
    return Retried(id=id, again=reason is not None, reason=view.text(hold["table"], reason))


@router.post("/{id}/discard", summary="Take a row off the list", responses=documented(404, 409))
def discard_row(id: str, request: Request, who: Principal = OPERATOR) -> Discarded:
    """It stays as it is on every node."""
    backend: Backend = request.app.state.backend
    discard(backend.way(who), [_found(backend, id, backend.view(who))])
    return Discarded(id=id)


def _found(backend: Backend, ident: str, view: View) -> dict[str, Any]:
    for hold in holds_of(backend.config):
        if seen(hold, view)["id"] == ident:
            return hold
    raise Refusal(404, "no such row on hold", hint="GET /dlq gives the IDs")
