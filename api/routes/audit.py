"""`/audit`: asking the audit log, and proofs of what it holds."""

from __future__ import annotations

import json
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.access import Principal, Role, at_least
from api.backend import Backend
from api.filters import Cursor, Filters
from api.models import Records
from api.problems import Refusal, documented
from cluster.commands.audit_query import query_of
from replication.audit.access import NotForRole
from replication.audit.proofs import is_sealed, newest_head, prove_record
from replication.audit.query import page
from replication.errors import ConfigError

router = APIRouter(prefix="/audit", tags=["audit"], responses=documented(401, 403, 422, 429, 503))
AUDITOR = at_least(Role.AUDITOR)
MOST = 1_000


def as_json(value: Any) -> Response:
    """An answer that is JSON as it stands; what JSON lacks, infinite numbers for one, is null."""
    return Response(orjson.dumps(value), media_type="application/json")


def with_ids(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records with what `GET /audit/proof/{id}` takes."""
    return [{"_id": f"{r['stream']}/{r['_record']}", **r} for r in records]


@router.get("/logs", summary="Records, page by page", response_model=Records)
def logs(
    request: Request,
    chosen: Filters,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 100,
    cursor: Cursor = None,
    who: Principal = AUDITOR,
) -> Response:
    """Oldest first; see `sync-worker audit query`. `next` is the `cursor` of the next page."""
    backend: Backend = request.app.state.backend
    query = query_of(chosen, backend.view(who))
    found, after = page(backend.config.audit_path, query, limit, cursor, backend.keys())
    return as_json({"records": with_ids(found), "next": after})


@router.get("/head", summary="The newest signed head", responses=documented(404))
def head(request: Request, who: Principal = AUDITOR) -> dict[str, Any]:
    """Keep it elsewhere: it proves later that nothing was cut off. See `sync-worker audit head`."""
    backend: Backend = request.app.state.backend
    try:
        found: dict[str, Any] = json.loads(newest_head(backend.config.audit_path).line)
    except ConfigError as error:
        raise Refusal(404, "no head was signed yet", hint=error.hint) from error
    return found


@router.get("/proof/{id:path}", summary="The proof of a record", responses=documented(404))
def proof(id: str, request: Request, who: Principal = AUDITOR) -> Response:
    """`id` is a record's `_id`. It stands without the log: see `sync-worker audit verify --proof`."""
    backend: Backend = request.app.state.backend
    stream, _, number = id.rpartition("/")
    if not number.isascii() or not number.isdigit() or len(number) > 18:
        raise Refusal(422, "this is no record's _id", hint="GET /audit/logs gives it with each record")
    try:
        proof = prove_record(backend.config.audit_path, stream, int(number))
        if backend.view(who).limited and not is_sealed(proof):
            message = "the proof of a record that was stored in clear shows all of it"
            raise NotForRole(message, hint="ask for a token with a role that sees every column")
        return as_json(proof)
    except NotForRole:
        raise
    except ConfigError as error:
        raise Refusal(404, error.message, hint=error.hint) from error
