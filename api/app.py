"""The application: its parts in the order in which a request passes them."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.middleware import Middleware

from api import access, problems
from api.access import Gate
from api.backend import Backend
from api.guards import BodyLimit, Headers
from api.problems import Faults, Problem
from api.routes import audit, conflicts, dlq, health, metrics, stream, sync
from api.routes.metrics import Counted
from cluster.cli import version

DOCS, SCHEMA = "/api/docs", "/api/openapi.json"
ABOUT = """Acts on a running group as the commands of `sync-worker` do.

Send `Authorization: Bearer TOKEN`, a JWT signed with RS256. Roles: `viewer`, `auditor` (also what the rows
hold), `operator` (also acts), `admin`. Errors are `application/problem+json` (RFC 9457)."""


def create_app(backend: Backend) -> FastAPI:
    """The application for one group.

    Args:
        backend: the group.
    """
    api = backend.api
    middleware = [Middleware(Headers, page=DOCS if api.development else "")]
    middleware.append(Middleware(Counted, requests=backend.requests))
    middleware.append(Middleware(Faults))
    if api.cors:
        allowed = ("Authorization", "Content-Type")
        middleware.append(
            Middleware(
                CORSMiddleware, allow_origins=api.cors, allow_methods=("GET", "POST"), allow_headers=allowed
            )
        )
    middleware.append(Middleware(BodyLimit, most=api.max_body_bytes))
    middleware.append(Middleware(Gate, config=api, denials=backend.denials, rates=backend.shared))
    app = FastAPI(
        title="Sync Worker",
        description=ABOUT,
        version=version(),
        middleware=middleware,
        docs_url=DOCS if api.development else None,
        redoc_url=None,
        openapi_url=SCHEMA if api.development else None,
    )
    app.state.backend = backend
    problems.install(app)
    access.install(app)
    for part in (health, metrics, sync, stream):
        app.include_router(part.router)
    for part in (audit, conflicts, dlq):
        app.include_router(part.router, dependencies=[Depends(problems.refuse_unknown)])
    _with_problems(app)
    return app


def _with_problems(app: FastAPI) -> None:
    """Let the OpenAPI document have the schema of problems, and how tokens are sent."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        parts = document.setdefault("components", {})
        parts.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
        document["security"] = [{"token": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]
