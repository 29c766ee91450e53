"""`GET /metrics`, and counting requests."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access import Principal, Role, at_least
from api.backend import Backend
from api.metrics import Exposition, Requests, gather
from api.problems import documented

router = APIRouter(tags=["metrics"], responses=documented(401, 403, 429))
VIEWER = at_least(Role.VIEWER)
UNKNOWN = "other"
"""The route of requests that have none, so that whoever makes up paths makes no labels."""


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(request: Request, who: Principal = VIEWER) -> Response:
    """In Prometheus' text format; docs/metrics.md says what there is."""
    backend: Backend = request.app.state.backend
    text = Exposition.text_of([*gather(backend.parts()), *backend.shown.all()])
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


class Counted:
    """The middleware that counts requests, and how long they take."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self.app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", UNKNOWN)
            self._requests.add(_method(scope), route, status, time.monotonic() - began)


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in ("GET", "POST", "OPTIONS", "HEAD") else UNKNOWN
