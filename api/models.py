"""The bodies of requests and answers, with an example of each."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [values]})


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _asked(**values: Any) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [values]})


class Live(BaseModel):
    """This process answers."""

    model_config = _example(status="ok")
    status: Literal["ok"] = "ok"


class Trouble(BaseModel):
    """Something that is wrong, and what to do about it."""

    what: str
    part: str
    detail: str
    hint: str = ""


class Health(BaseModel):
    """Whether the group does its work: `ok`, `degraded` (it does, but not everywhere) or `unavailable`."""

    model_config = _example(
        status="degraded",
        live=True,
        ready=True,
        group="shop",
        troubles=[
            {
                "what": "node_away",
                "part": "mongo",
                "detail": "it does not answer since 2026-11-26T00:12:31+00:00",
                "hint": "the other nodes go on; it catches up when it is there",
            }
        ],
    )
    status: Literal["ok", "degraded", "unavailable"]
    live: bool
    ready: bool
    group: str
    troubles: list[Trouble]


class Node(BaseModel):
    """The way to one node."""

    node: str
    breaker: Literal["closed", "open", "half-open"]
    since: str
    failures: int
    next_try_in: float
    error: str
    parts: dict[str, str]
    paused: str


class Shard(BaseModel):
    """One resolver."""

    shard: int
    replaying: bool
    backlog: dict[str, int]
    changes: int
    applied: int
    conflicts: int
    held: int
    lags: list[str]
    undecided: int
    paused: dict[str, str]
    paused_tables: dict[str, str] = {}
    held_back: dict[str, dict[str, int]] = {}
    most: int = 0


class Copy(BaseModel):
    """The copy of one table."""

    node: str
    table: str
    rows: int
    estimate: int
    rows_per_second: float
    finished: bool
    workers: int = 1
    held_to: float | None = None
    because: str = ""
    slowed: int = 0
    seconds_left: float | None = None


class Status(BaseModel):
    """What the group is doing; the same as `sync-worker status --json` prints."""

    model_config = _example(
        group="shop",
        nodes=[
            {
                "node": "pg",
                "breaker": "closed",
                "since": "",
                "failures": 0,
                "next_try_in": 0.0,
                "error": "",
                "parts": {"applier pg/0": "closed", "capture pg": "closed"},
                "paused": "",
            }
        ],
        shards=[
            {
                "shard": 0,
                "replaying": False,
                "backlog": {"mongo": 3, "pg": 0},
                "changes": 1200,
                "applied": 1197,
                "conflicts": 2,
                "held": 0,
                "lags": [],
                "undecided": 0,
                "paused": {},
            }
        ],
        copies=[],
    )
    group: str
    nodes: list[Node]
    shards: list[Shard]
    copies: list[Copy]
    retries: dict[str, Any] | None = None
    kafka: dict[str, Any] | None = None
    archive: dict[str, Any] | None = None
    waiting: dict[str, Any] | None = None
    redis: dict[str, Any] | None = None


class Schema(BaseModel):
    """How tables are mapped; `tables` is what `sync-worker check --json` prints of them."""

    model_config = _example(
        group="shop", tables=[{"table": "orders", "key": ["id"], "declared_by": "pg", "columns": []}]
    )
    group: str
    tables: list[dict[str, Any]]


class Nodes(_Asked):
    """Which nodes and tables; at least one of them."""

    model_config = _asked(nodes=["mongo"])
    nodes: list[str] = Field(default=[], max_length=3)
    tables: list[str] = Field(default=[], max_length=1_000)

    @model_validator(mode="after")
    def _name_something(self) -> Nodes:
        if not (self.nodes or self.tables):
            message = "name nodes, tables, or both"
            raise ValueError(message)
        return self


class Steered(BaseModel):
    """Which nodes and tables are paused now, and for which that is new."""

    model_config = _example(
        group="shop", paused={"mongo": "2026-11-26T00:12:31+00:00"}, changed=["mongo"], on_their_way=0
    )
    group: str
    paused: dict[str, str]
    paused_tables: dict[str, str] = {}
    changed: list[str]
    changed_tables: list[str] = []
    on_their_way: int


class BackfillAsked(_Asked):
    """Which table to copy again, and from which node; see `sync-worker backfill`."""

    model_config = _asked(table="orders", source="pg", workers=4)
    table: str
    source: str | None = None
    workers: int | None = Field(default=None, ge=1, le=64)


class ReplayAsked(_Asked):
    """Which changes to apply again; see `sync-worker replay`. At least a time, a key or a trace is needed."""

    model_config = _asked(table="orders", key="4711")
    since: str | None = None
    until: str | None = None
    table: str | None = None
    key: str | None = None
    op: Literal["insert", "update", "delete", "read"] | None = None
    node: str | None = None
    trace: str | None = None


class OperationModel(BaseModel):
    """Something that was begun; ask again at `Location` until its state is not `running`."""

    model_config = _example(
        id="0b0f3f6f0a1c4b7d9a55c2b0a4a1f7e2",
        kind="backfill",
        by="alice",
        asked={"table": "orders", "source": "pg"},
        state="running",
        began="2026-11-26T00:12:31+00:00",
        ended="",
        progress={"rows": 12000, "estimate": 110000},
        result=None,
        error="",
        hint="",
    )
    id: str
    kind: str
    by: str
    asked: dict[str, Any]
    state: Literal["running", "done", "failed"]
    began: str
    ended: str
    progress: dict[str, Any]
    result: Any
    error: str
    hint: str


class Records(BaseModel):
    """A page of records, oldest first, and the cursor that goes on after them, also with what comes later."""

    model_config = _example(
        records=[
            {
                "id": "changes/orders/17",
                "stream": "changes/orders",
                "_record": 17,
                "_node": "pg",
                "_shard": 0,
                "_recorded": 1795651951000000,
                "_op": 1,
                "_key": "8000000000001267",
                "id_": 4711,
            }
        ],
        next="eyJjaGFuZ2VzL29yZGVycyI6MTh9",
    )
    records: list[dict[str, Any]]
    next: str


class ConflictModel(BaseModel):
    """Two writes of one row, neither of which had seen the other; images as the nodes had written them."""

    model_config = ConfigDict(extra="allow")
    id: str
    state: Literal["open", "resolved", "decided"]
    table: str
    key: str | None
    key_text: str
    kind: str
    winner: str
    policy: str
    left_node: str
    right_node: str
    left: dict[str, Any] | None
    right: dict[str, Any] | None


class Conflicts(BaseModel):
    """A page of conflicts, oldest first."""

    conflicts: list[ConflictModel]
    next: str | None = None


class ResolveAsked(_Asked):
    """Whose row goes to every node, and which of its values are to be others."""

    model_config = _asked(take="pg", set={"status": "paid", "note": None})
    take: str
    set: dict[str, str | int | bool | None] = Field(default_factory=dict)


class Hold(BaseModel):
    """A row that a node refuses to take, or that it holds and the others cannot read."""

    model_config = _example(
        id="3f2a90c1",
        node="my",
        table="orders",
        key="8000000000001267",
        key_text="4711",
        origin="pg",
        reason="Data too long for column 'name'",
        times=1,
    ) | ConfigDict(extra="allow")
    id: str
    node: str
    table: str
    key: str | None
    key_text: str
    origin: str
    reason: str
    times: int


class Holds(BaseModel):
    """What is on hold, oldest first."""

    holds: list[Hold]


class Retried(BaseModel):
    """What came of sending a row again."""

    model_config = _example(id="3f2a90c1", again=False, reason=None)
    id: str
    again: bool
    reason: str | None


class Discarded(BaseModel):
    """A row that is off the list."""

    model_config = _example(id="3f2a90c1")
    id: str
