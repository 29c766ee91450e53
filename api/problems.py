"""Errors as RFC 9457 has them: `application/problem+json`, with a hint that names the fix."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.requests import HTTPConnection
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.config_reader import suggest
from cluster.logs import current_redactor
from replication.errors import ConfigError, SyncError, Transient

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:sync-worker:problem:conflict",
                    "title": "Conflict",
                    "status": 409,
                    "detail": "another command is at work on this group",
                    "hint": "wait until it has ended",
                }
            ]
        }
    )
    type: str
    title: str
    status: int
    detail: str
    hint: str | None = None
    errors: list[dict[str, Any]] | None = None


class Refusal(Exception):
    """A request that is answered with a problem.

    Args:
        status: the HTTP status.
        detail: what is wrong, one sentence.
        hint: what to do about it.
        headers: of the answer.
    """

    def __init__(
        self, status: int, detail: str, *, hint: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.hint = hint
        self.headers = dict(headers or {})


def answer(refusal: Refusal, errors: list[dict[str, Any]] | None = None) -> Response:
    """The response; no known secret is in it."""
    title = HTTPStatus(refusal.status).phrase
    body: dict[str, Any] = {
        "type": f"urn:sync-worker:problem:{title.lower().replace(' ', '-')}",
        "title": title,
        "status": refusal.status,
        "detail": refusal.detail,
    }
    body |= {"hint": refusal.hint} if refusal.hint else {}
    body |= {"errors": errors} if errors else {}
    content = orjson.dumps(current_redactor().value(body))
    return Response(content, refusal.status, refusal.headers, media_type=MEDIA_TYPE)


def refusal_of(error: SyncError) -> Refusal:
    """What an error of the program means for whoever asked."""
    where = f"{error.node}: " if error.node else ""
    if isinstance(error, Transient):
        retry = {"Retry-After": str(RETRY_SECONDS)}
        return Refusal(503, f"{where}{error.message}", hint=error.hint, headers=retry)
    status = 422 if isinstance(error, ConfigError) else 409
    return Refusal(status, f"{where}{error.message}", hint=error.hint)


def install(app: FastAPI) -> None:
    """Let every error of the application be answered with a problem."""

    @app.exception_handler(Refusal)
    def refused(_: Request, error: Refusal) -> Response:
        return answer(error)

    @app.exception_handler(TimeoutError)
    def late(_: Request, error: TimeoutError) -> Response:
        return answer(Refusal(503, "a part of the group does not answer", headers={"Retry-After": "5"}))

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> Response:
        errors = [{"at": ".".join(map(str, e["loc"])), "what": e["msg"]} for e in error.errors()]
        return answer(Refusal(422, "the request is not as it must be"), errors)

    @app.exception_handler(HTTPException)
    def plain(_: Request, error: HTTPException) -> Response:
        return answer(Refusal(error.status_code, str(error.detail), headers=error.headers))


def refuse_unknown(asked: HTTPConnection) -> None:
    """Refuse a name in the query that the route does not know, or twice: it would filter nothing.

    Raises:
        Refusal: there is one.
    """
    known = _query_names(asked.scope["route"].dependant)
    for name in asked.query_params:
        if name not in known:
            raise Refusal(422, f"nothing here is called {name[:100]!r}", hint=suggest(name, known))
        if len(asked.query_params.getlist(name)) > 1:
            raise Refusal(422, f"{name} is given twice", hint="one value each")


def _query_names(route: Dependant) -> list[str]:
    """The names in the query that a route takes, itself or by what it depends on."""
    return [p.alias for p in route.query_params] + [n for d in route.dependencies for n in _query_names(d)]


class Faults:
    """The middleware that answers what nobody has foreseen, without saying what it is."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except Exception as error:
            log.exception("request_failed", extra={"path": scope.get("path", "")})
            if begun or scope["type"] != "http":
                raise
            refusal = Refusal(500, "this should not happen", hint="the log of the API has the details")
            refusal.__cause__ = error
            await answer(refusal)(scope, receive, send)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problems for the OpenAPI document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {s: {"description": HTTPStatus(s).phrase, "content": content} for s in statuses}
