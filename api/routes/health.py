"""`GET /health`: is this process alive, does the group do its work, and if not, what is wrong."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from api.backend import Backend
from api.models import Health, Live, Trouble
from cluster.group_state import GroupState
from cluster.node_states import by_node
from replication.breaker import State
from replication.errors import SyncError

TO_ALL: dict[str, Any] = {"security": []}
"""For the OpenAPI document: no token is needed."""
router = APIRouter(tags=["health"])


@router.get("/health/live", summary="This process answers", openapi_extra=TO_ALL)
async def live() -> Live:
    """Whether to restart it: if this is not answered."""
    return Live()


@router.get(
    "/health",
    summary="Whether the group does its work, and what is wrong",
    openapi_extra=TO_ALL,
    responses={503: {"model": Health, "description": "The group does not do its work"}},
)
def health(request: Request, response: Response) -> Health:
    """`ok` and `degraded` are 200, `unavailable` is 503."""
    backend: Backend = request.app.state.backend
    ready, troubles = look(backend)
    status: Any = "unavailable" if not ready else "degraded" if troubles else "ok"
    response.status_code = 200 if ready else 503
    return Health(status=status, live=True, ready=ready, group=backend.config.group, troubles=troubles)


def look(backend: Backend) -> tuple[bool, list[Trouble]]:
    """Whether the group does its work, and what is wrong."""
    try:
        state = backend.state()
    except TimeoutError:
        return False, [
            _trouble("no_answer", "group", "a part does not answer", "it is waited for, or made again")
        ]
    except SyncError:
        return False, [_trouble("part_lost", "group", "a part is being made again", "this takes seconds")]
    if state is None:
        hint = "start it with: sync-worker up"
        return False, [_trouble("not_running", "group", "the group does not run", hint)]
    replaying = [s.shard for s in state.shards if s.replaying]
    found = [
        _trouble("replaying", f"resolver {s}", "it rebuilds what its predecessor knew", "this takes seconds")
        for s in replaying
    ]
    beside = [*_of_redis(backend), *_of_kafka(state), *_of_archive(state)]
    return not replaying, found + _of_nodes(state) + _of_rows(state) + beside


def _of_redis(backend: Backend) -> list[Trouble]:
    health = backend.shared.health()
    if health.kind != "redis" or not health.away_since:
        return []
    detail = f"it does not answer since {health.away_since}"  # why is for those with a token: /sync/status
    hint = "each replica counts requests and reads the audit log by itself until it is there"
    return [_trouble("redis_away", "redis", detail, hint)]


def _of_nodes(state: GroupState) -> list[Trouble]:
    found, nodes = [], by_node(state.guards)
    for node in nodes:
        if node.breaker != State.CLOSED:
            detail = f"it does not answer since {node.since}"
            hint = "the other nodes go on; it catches up when it is there"
            found.append(_trouble("node_away", node.node, detail, hint))
    away = {t.part for t in found}
    for node_name in sorted({n for s in state.shards for n in s.lags} - away):
        found.append(_trouble("node_lags", node_name, "it catches up, or answers slowly", ""))
    paused = {n: since for s in state.shards for n, since in s.paused.items()}
    for node_name, since in sorted(paused.items()):
        hint = f"go on with: sync-worker resume {node_name}"
        found.append(_trouble("node_paused", node_name, f"an operator has paused it at {since}", hint))
    tables = {t: since for s in state.shards for t, since in s.paused_tables.items()}
    for table, since in sorted(tables.items()):
        hint = f"go on with: sync-worker resume --table {table}"
        why = f"an operator has paused it at {since}; all logs are kept"
        found.append(_trouble("table_paused", table, why, hint))
    return found


def _of_rows(state: GroupState) -> list[Trouble]:
    undecided = sum(s.undecided for s in state.shards)
    if not undecided:
        return []
    hint = "sync-worker conflicts list --open"
    return [_trouble("conflicts_open", "conflicts", f"{undecided} rows await a decision", hint)]


def _of_kafka(state: GroupState) -> list[Trouble]:
    if state.kafka is None or not state.kafka.since:
        return []
    hint = "the sync goes on; what changes waits in the audit log and is published when it is there"
    return [_trouble("kafka_away", "kafka", f"it confirms nothing since {state.kafka.since}", hint)]


def _of_archive(state: GroupState) -> list[Trouble]:
    if state.archive is None or not state.archive.since:
        return []
    hint = "the sync goes on, and the audit log is whole where it is; what is new is copied when it is there"
    return [_trouble("archive_away", "audit", f"its archive fails since {state.archive.since}", hint)]


def _trouble(what: str, part: str, detail: str, hint: str) -> Trouble:
    return Trouble(what=what, part=part, detail=detail, hint=hint)
