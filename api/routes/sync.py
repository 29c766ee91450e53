"""`/sync`: what the group is doing, and acting on it as the commands do."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from fastapi import APIRouter, Request, Response

from actors.backfill import CopyStatus
from api.access import Principal, Role, at_least
from api.backend import Backend
from api.models import BackfillAsked, Nodes, OperationModel, ReplayAsked, Schema, Status, Steered
from api.operations import Operation
from api.problems import Refusal, documented
from cluster.commands.audit_query import query_of
from cluster.commands.backfill import copy_again, resized, source_of
from cluster.commands.status import copy_json
from cluster.repair import send
from cluster.replay import make_plan
from cluster.steering import NOTHING, Wanted, steer
from cluster.topology import load_tables

router = APIRouter(
    prefix="/sync", tags=["sync"], responses=documented(400, 401, 403, 409, 413, 422, 429, 503)
)
VIEWER, OPERATOR = at_least(Role.VIEWER), at_least(Role.OPERATOR)


@router.get("/status", summary="What the group is doing")
def status(request: Request, who: Principal = VIEWER) -> Status:
    """Copies, backlog, counts since the resolvers started, and the ways to the nodes."""
    backend: Backend = request.app.state.backend
    found = backend.status()
    if found is None:
        raise Refusal(503, f"group {backend.config.group} does not run", hint="start it: sync-worker up")
    words = backend.words(who)
    for told in (*found["nodes"], *([found["waiting"]] if "waiting" in found else [])):
        told["error"] = words.text(None, told["error"])  # a node's own words can quote a row
    return Status.model_validate(found)


@router.get("/schema", summary="How every table is mapped", response_model=Schema)
def schema(request: Request, who: Principal = VIEWER) -> Response:
    """Columns, types and what each node narrows, as `sync-worker check --json` has them; up to 30 s old."""
    backend: Backend = request.app.state.backend
    return Response(backend.schema(), media_type="application/json")


@router.post("/pause", summary="Let nodes or tables be")
def pause(asked: Nodes, request: Request, who: Principal = OPERATOR) -> Steered:
    """Nothing is applied to them, nothing of them is read on; the others go on. See `sync-worker pause`."""
    return _steered(request, who, Wanted(asked.nodes, asked.tables), NOTHING)


@router.post("/resume", summary="Go on with paused nodes or tables")
def resume(asked: Nodes, request: Request, who: Principal = OPERATOR) -> Steered:
    """See `sync-worker resume`."""
    return _steered(request, who, NOTHING, Wanted(asked.nodes, asked.tables))


def _steered(request: Request, who: Principal, paused: Wanted, resumed: Wanted) -> Steered:
    backend: Backend = request.app.state.backend
    found = steer(backend.way(who), paused, resumed)
    backend.changed()
    return Steered(
        group=backend.config.group,
        paused=dict(found.since),
        paused_tables=dict(found.tables),
        changed=found.changed,
        changed_tables=found.changed_tables,
        on_their_way=found.left,
    )


@router.post("/backfill", status_code=202, summary="Copy a table again")
def backfill(
    asked: BackfillAsked, request: Request, response: Response, who: Principal = OPERATOR
) -> OperationModel:
    """From one node to the others, while applications write. See `sync-worker backfill`.

    Where the table is being copied, that copy goes on by as many readers as `workers` says.
    """
    backend: Backend = request.app.state.backend
    tables = {t.name: t for t in load_tables(backend.config)}
    if asked.table not in tables:
        raise Refusal(422, f"no table called {asked.table!r}", hint=f"there are {', '.join(tables)}")
    table, way = tables[asked.table], backend.way(who)
    node = source_of(backend.config, table, asked.source)

    def work(operation: Operation) -> Any:
        def report(copied: CopyStatus) -> None:
            operation.progress = copy_json(node, copied)

        if asked.workers and resized(way, table, node, asked.workers):
            return {"workers": asked.workers}
        return {"rows": copy_again(way, table, node, report, asked.workers or 1)}

    said = {"table": table.name, "source": node} | ({"workers": asked.workers} if asked.workers else {})
    return _begun(backend, who, response, Operation("backfill", who.subject, said), work)


@router.post("/replay", status_code=202, summary="Apply again what is on record")
def replay(
    asked: ReplayAsked, request: Request, response: Response, who: Principal = OPERATOR
) -> OperationModel:
    """The rows that some changes wrote go to every node once more. See `sync-worker replay`."""
    backend: Backend = request.app.state.backend
    if not any((asked.since, asked.until, asked.key, asked.trace)):
        raise Refusal(422, "replay what?", hint="say since, until, key or trace; see GET /audit/logs")
    chosen = Namespace(**asked.model_dump(), kind="change", actor=None, outcome=None)
    query, way = query_of(chosen, backend.view(who)), backend.way(who)

    def work(operation: Operation) -> Any:
        plan = make_plan(backend.config, load_tables(backend.config), query)
        operation.progress = {"plan": [step.as_json() for step in plan.steps]}
        return {"left_alone": dict(plan.left), "done": send(way, plan, "replay") if plan.steps else []}

    said = asked.model_dump(exclude_none=True)
    return _begun(backend, who, response, Operation("replay", who.subject, said), work)


def _begun(
    backend: Backend, who: Principal, response: Response, operation: Operation, work: Any
) -> OperationModel:
    backend.operations.begin(operation, work)
    response.headers["Location"] = f"/sync/operations/{operation.id}"
    return OperationModel.model_validate(operation.shown(backend.words(who)))


@router.get("/operations", summary="What was begun here")
def operations(request: Request, who: Principal = VIEWER) -> list[OperationModel]:
    """The newest last. The audit log has all that was ever begun."""
    backend: Backend = request.app.state.backend
    return [OperationModel.model_validate(o.shown(backend.words(who))) for o in backend.operations.all()]


@router.get("/operations/{id}", summary="How far an operation is", responses=documented(404))
def operation(id: str, request: Request, who: Principal = VIEWER) -> OperationModel:
    """`state` says whether it is over."""
    backend: Backend = request.app.state.backend
    if (found := backend.operations.find(id)) is None:
        raise Refusal(
            404, "no such operation", hint="the audit log has those of a day ago, and of a lost process"
        )
    return OperationModel.model_validate(found.shown(backend.words(who)))
