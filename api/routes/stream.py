"""`WebSocket /audit/stream`: records as they are recorded."""

from __future__ import annotations

import logging
import time

import anyio
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from api.access import BEARER, Principal, Role, deny_values, may
from api.backend import Backend
from api.filters import Cursor, Filters
from api.problems import Refusal, refuse_unknown
from api.stream import MESSAGE_RECORDS, Listener, PageOf
from cluster.commands.audit_query import query_of
from replication.audit.access import NotForRole
from replication.audit.query import Places, page, places_of
from replication.audit.query import Query as AuditQuery
from replication.errors import ConfigError, SyncError

log = logging.getLogger(__name__)
router = APIRouter(prefix="/audit", tags=["audit"])
REFUSED, WRONG, BROKEN, FULL = 1008, 1007, 1011, 1013
"""Codes that a WebSocket is closed with (RFC 6455)."""
MOST_CLIENTS = 200


@router.websocket("/stream")
async def stream(
    websocket: WebSocket,
    chosen: Filters,
    cursor: Cursor = None,
) -> None:
    """Records from now on, or after a `cursor`; what the client sends is not looked at."""
    backend: Backend = websocket.app.state.backend
    try:
        who = may(Role.AUDITOR, websocket)
        refuse_unknown(websocket)
        query, places = query_of(chosen, backend.view(who)), places_of(cursor) if cursor else None
    except NotForRole as error:
        deny_values(websocket, error)
        await websocket.close(REFUSED)
        return
    except (Refusal, ConfigError):
        await websocket.close(REFUSED)
        return
    if backend.requests.streams >= MOST_CLIENTS:
        await websocket.close(FULL)
        return
    offered = websocket.headers.get("sec-websocket-protocol", "")
    await websocket.accept(subprotocol=BEARER if offered.startswith(BEARER) else None)
    backend.requests.streams += 1
    try:
        await backend.hub.join(query)
        await _talk(websocket, backend, who, query, places)
    finally:
        backend.hub.leave(query)
        backend.requests.streams -= 1


async def _talk(
    websocket: WebSocket, backend: Backend, who: Principal, query: AuditQuery, places: Places | None
) -> None:
    """Send and listen until either ends, or the token does."""
    listener = Listener(backend.hub, query, _pages(backend, query), places)
    left = None if who.until is None else max(0.0, who.until - time.time())
    async with anyio.create_task_group() as tasks:

        async def listen() -> None:
            await _gone(websocket)
            tasks.cancel_scope.cancel()  # the client has gone

        tasks.start_soon(listen)
        try:
            with anyio.move_on_after(left):
                await _send(websocket, listener)
            await websocket.close(REFUSED, "the token has expired")
        except SyncError as error:
            log.warning("stream_failed", extra={"error": str(error)})
            await websocket.close(BROKEN, error.message[:100])
        except WebSocketDisconnect:
            pass
        tasks.cancel_scope.cancel()


def _pages(backend: Backend, query: AuditQuery) -> PageOf:
    folder, keys = backend.config.audit_path, backend.keys()
    return lambda cursor: page(folder, query, MESSAGE_RECORDS, cursor, keys)


async def _send(websocket: WebSocket, listener: Listener) -> None:
    while True:
        message = await listener.next()
        await websocket.send_text(message.decode())


async def _gone(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
