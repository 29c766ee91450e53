"""Everything that would keep a MongoDB node from taking part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo.database import Database
from pymongo.errors import OperationFailure

from replication.engine import Finding
from replication.engines.mongodb.config import MARKER, OWN, STATE, WATERMARK, Document
from replication.engines.mongodb.layout import Layout
from replication.engines.mongodb.types import DATES
from replication.key import KEY_KINDS
from replication.schema import NodeConfig
from replication.types import Kind

_OLDEST = (6, 0)
_SHORT_WINDOW = 3600
_ACTIONS = frozenset({"find", "insert", "update", "remove", "createCollection", "collMod", "changeStream"})


def check(db: Database[Document], node: NodeConfig, layouts: Sequence[Layout]) -> list[Finding]:
    """All findings, the server's first."""
    auth = db.command("connectionStatus", showPrivileges=True)["authInfo"]
    names = [MARKER, WATERMARK, STATE, *(layout.collection for layout in layouts)]
    findings = [*_server(db), *privilege_findings(auth, db.name, names)]
    for layout in layouts:
        findings += _name(layout) or [*_collection(db, layout), *_key(db, layout)]
    return findings


def _server(db: Database[Document]) -> list[Finding]:
    findings = []
    hello = db.client.admin.command("hello")
    if hello.get("msg") == "isdbgrid":
        return [
            Finding(
                "warning",
                "topology",
                "this is a sharded cluster; change streams of it are merged and slower",
                "use a replica set where latency matters",
            )
        ]
    if "setName" not in hello:
        findings.append(
            Finding(
                "error",
                "replica set",
                "a standalone server has neither transactions nor change streams",
                "start mongod with --replSet rs0 and run rs.initiate()",
            )
        )
    version = db.client.server_info()["versionArray"]
    if tuple(version[:2]) < _OLDEST:
        findings.append(
            Finding(
                "error",
                "version",
                f"MongoDB {'.'.join(map(str, version[:3]))} keeps no before-images",
                "upgrade to MongoDB 6.0 or later and set its feature compatibility version",
            )
        )
    return findings + _oplog(db)


def _oplog(db: Database[Document]) -> list[Finding]:
    oplog = db.client["local"]["oplog.rs"]
    try:
        first = oplog.find_one({}, {"ts": 1}, sort=[("$natural", 1)])
        last = oplog.find_one({}, {"ts": 1}, sort=[("$natural", -1)])
        stats = db.client["local"].command("collStats", "oplog.rs")
    except OperationFailure:
        return []
    if first is None or last is None:
        return []
    window = last["ts"].time - first["ts"].time
    full = stats.get("maxSize") and stats.get("size", 0) >= 0.8 * stats["maxSize"]
    if not full or window >= _SHORT_WINDOW:
        return []
    return [
        Finding(
            "warning",
            "oplog",
            f"the oplog holds {window // 60} minutes; a node away for longer must be copied again",
            "db.adminCommand({replSetResizeOplog: 1, size: 51200, minRetentionHours: 24})",
        )
    ]


def privilege_findings(auth: Mapping[str, Any], database: str, collections: Sequence[str]) -> list[Finding]:
    """What the user may not do but must.

    Args:
        auth: `authInfo` of the command `connectionStatus` with `showPrivileges`.
        database: the node's database.
        collections: the mapped collections and our own.
    """
    privileges = auth.get("authenticatedUserPrivileges", [])
    if not auth.get("authenticatedUsers") or (auth.get("authenticatedUserRoles") and not privileges):
        return []  # nobody needs any, or this server does not tell
    findings = []
    for name in collections:
        missing = _ACTIONS - _allowed(privileges, database, name)
        if missing:
            # Someone else may have switched the pre-images on; that has a finding of its own.
            level = "warning" if missing <= {"collMod", "createCollection"} else "error"
            roles = ", ".join(f'{{role: "{role}", db: "{database}"}}' for role in ("readWrite", "dbAdmin"))
            findings.append(
                Finding(
                    level,
                    name,
                    f"the user lacks {', '.join(sorted(missing))}",
                    f'db.grantRolesToUser("<user>", [{roles}])',
                )
            )
    return findings


def _allowed(privileges: Sequence[Mapping[str, Any]], database: str, collection: str) -> set[str]:
    allowed: set[str] = set()
    for privilege in privileges:
        resource = privilege["resource"]
        if resource.get("anyResource") or (
            resource.get("db") in ("", database) and resource.get("collection") in ("", collection)
        ):
            allowed |= set(privilege["actions"])
    return allowed


def _name(layout: Layout) -> list[Finding]:
    if not layout.collection.startswith((OWN, "system.")):
        return []
    return [
        Finding(
            "error",
            layout.name,
            f"the collection {layout.collection} is not an application's",
            f"map the table to a collection whose name does not start with {OWN} or system.",
        )
    ]


def _collection(db: Database[Document], layout: Layout) -> list[Finding]:
    info = next(iter(db.list_collections(filter={"name": layout.collection})), None)
    if info is None:
        return []
    if info.get("type", "collection") != "collection":
        return [
            Finding(
                "error",
                layout.name,
                f"{layout.collection} is a {info['type']}, which has no change stream",
                "map the table to a collection",
            )
        ]
    options = info.get("options", {})
    findings = []
    if not options.get("changeStreamPreAndPostImages", {}).get("enabled"):
        findings.append(
            Finding(
                "warning",
                layout.name,
                f"{layout.collection} keeps no before-images; they are switched on at the start",
                f'db.runCommand({{collMod: "{layout.collection}", '
                "changeStreamPreAndPostImages: {enabled: true}})",
            )
        )
    if options.get("capped"):
        findings.append(
            Finding(
                "error",
                layout.name,
                f"{layout.collection} is capped; what it drops of itself is in no log",
                "map the table to a collection that is not capped",
            )
        )
    return findings


def _key(db: Database[Document], layout: Layout) -> list[Finding]:
    if not layout.columns:
        return []
    unfit = [k for k in layout.kinds if k not in KEY_KINDS]
    if unfit:
        return [
            Finding(
                "error",
                layout.name,
                f"a key of type {unfit[0]} has no common order",
                "use a key of integers, text, dates, uuid or numeric",
            )
        ]
    findings = []
    if {Kind.TIMESTAMP, Kind.TIMESTAMPTZ} & set(layout.kinds):
        findings.append(
            Finding(
                "warning",
                layout.name,
                "MongoDB keeps milliseconds, so a key with microseconds is refused there",
                "use keys of another type, or whole milliseconds",
            )
        )
    if layout.kinds == [Kind.BYTES] or (len(layout.kinds) > 1 and Kind.BYTES in layout.kinds):
        findings.append(
            Finding(
                "warning",
                layout.name,
                "MongoDB orders binary keys by length first; each chunk of the initial copy sorts all",
                "use keys of another type where the table is large",
            )
        )
    stray = stray_id(db, layout)
    if stray is not None:
        findings.append(
            Finding(
                "warning",
                layout.name,
                f"{layout.collection} has a document whose _id is no key of this table: {stray!r:.60}",
                "give it a key of the table's type; until then the initial copy and verify refuse to read it",
            )
        )
    return findings


def stray_id(db: Database[Document], layout: Layout) -> Any | None:
    """An `_id` of a BSON type that no key of this table has, or None.

    MongoDB orders `_id` by type first, so the ends of the index tell. Dates may be text too, so there the
    types between strings and dates have to be asked for.
    """
    collection = db[layout.collection]
    queries: list[tuple[Document, int]] = [({}, 1), ({}, -1)]
    if len(layout.kinds) == 1 and layout.kinds[0] in DATES:
        queries.append(({"_id": {"$type": ["object", "binData", "objectId", "bool"]}}, 1))
    ids = [
        document["_id"]
        for query, order in queries
        for document in collection.find(query, {"_id": 1}, sort=[("_id", order)], limit=1)
    ]
    keys = layout.decode_ids(ids)
    return next(
        (v for v, readable in zip(ids, keys.is_valid().to_pylist(), strict=True) if not readable), None
    )
