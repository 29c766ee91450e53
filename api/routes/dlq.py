"""`/dlq`: rows on hold."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from api.access import Principal, Role, at_least
from api.backend import Backend
from api.models import Discarded, Hold, Holds, Retried
from api.problems import Refusal, documented
from cluster.commands.dlq import discard, holds_of, plain, retry

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
    found = [h for h in holds_of(backend.config) if table in (None, h["table"])]
    return Holds(holds=[Hold(**plain(h)) for h in found])


@router.post("/{id}/retry", summary="Send a row again", responses=documented(404, 409))
def retry_row(id: str, request: Request, who: Principal = OPERATOR) -> Retried:
    """Read it where it was written and send it; `again` says whether it is on hold again, and why."""
    backend: Backend = request.app.state.backend
    [(hold, reason)] = retry(backend.way(who), [_found(backend, id)])
    return Retried(id=hold["id"], again=reason is not None, reason=reason)


@router.post("/{id}/discard", summary="Take a row off the list", responses=documented(404, 409))
def discard_row(id: str, request: Request, who: Principal = OPERATOR) -> Discarded:
    """It stays as it is on every node."""
    backend: Backend = request.app.state.backend
    hold = _found(backend, id)
    discard(backend.way(who), [hold])
    return Discarded(id=hold["id"])


def _found(backend: Backend, ident: str) -> dict[str, Any]:
    for hold in holds_of(backend.config):
        if hold["id"] == ident:
            return hold
    raise Refusal(404, "no such row on hold", hint="GET /dlq gives the IDs")
