"""Who asks, and what they may do. Nothing but `OPEN` is answered without that being known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import anyio
import anyio.to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.requests import HTTPConnection
from fastapi.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.denials import Denial, Denials
from api.problems import Refusal, answer, refusal_of
from api.tokens import TokenRefused, Verifier
from cluster.config_api import ApiConfig, is_loopback
from cluster.sharing.store import Rates
from replication.audit.access import NotForRole
from replication.errors import SyncError

OPEN = frozenset({"/health", "/health/live"})
"""Answered to everybody; a probe has no token."""
DOCUMENTATION = frozenset({"/api/docs", "/api/openapi.json"})
"""In development mode answered to everybody, otherwise not there."""
BEARER = "bearer"
COUNTING_THREADS = 16


class Role(IntEnum):
    """What somebody may do; each role may what those before it may."""

    VIEWER = 1
    AUDITOR = 2
    OPERATOR = 3
    ADMIN = 4


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody.

    Attributes:
        subject: as the token names them.
        role: the highest of their roles.
        address: where the request came from.
        until: when the token ends, seconds since 1970; None without one.
    """

    subject: str
    role: Role
    address: str
    until: float | None = None


def role_of(names: list[str]) -> Role | None:
    """The highest of the roles that are known here."""
    return max((role for role in Role if role.name.lower() in names), default=None)


class Gate:
    """The middleware that lets in who may come in: at most so often from an address, with a token, at most so
    often by a subject.

    Args:
        app: what is behind it.
        config: the interface.
        denials: where it is told who was not let in.
        rates: counts requests; shared by the replicas.
    """

    def __init__(self, app: ASGIApp, config: ApiConfig, denials: Denials, rates: Rates) -> None:
        self.app = app
        self._config = config
        self._denials = denials
        self._verifier = Verifier(config.auth) if config.auth else None
        self._rates = rates
        # Threads of its own: those of routes may all be at work, and a probe must be answered then, too.
        self._threads = anyio.CapacityLimiter(COUNTING_THREADS)
        self._open = OPEN | (DOCUMENTATION if config.development else frozenset())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        asked = HTTPConnection(scope)
        try:
            scope["state"] = {**scope.get("state", {}), "principal": await self._admit(asked)}
        except Refusal as refusal:
            await self._refuse(scope, receive, send, refusal)
            return
        await self.app(scope, receive, send)

    async def _admit(self, asked: HTTPConnection) -> Principal | None:
        address = asked.client.host if asked.client else ""
        if seconds := await self._counted("address", address, self._config.address_rate):
            self._deny(asked, "rate", "", "too many requests from this address")
            raise _too_many(seconds)
        if asked.url.path in self._open:
            return None
        if self._verifier is None:
            self._refuse_foreign(asked)
            return Principal("local", Role.ADMIN, address)
        principal = await self._known(asked, address)
        if seconds := await self._counted("subject", principal.subject, self._config.subject_rate):
            self._deny(asked, "rate", principal.subject, "too many requests of this subject")
            raise _too_many(seconds)
        return principal

    async def _counted(self, kind: str, who: str, most: int) -> float:
        """Count a request; gives for how long it is refused, 0 if it is not."""
        return await anyio.to_thread.run_sync(self._rates.hit, kind, who, most, limiter=self._threads)

    async def _known(self, asked: HTTPConnection, address: str) -> Principal:
        token = token_of(asked)
        if token is None:
            self._deny(asked, "no token", "", "no token was sent")
            refusal = _unknown("send a token: Authorization: Bearer TOKEN", "")
            raise refusal
        assert self._verifier is not None
        try:
            claims = await anyio.to_thread.run_sync(self._verifier.claims, token)
        except TokenRefused as refused:
            self._deny(asked, "token", "", str(refused))
            raise _unknown(str(refused), ', error="invalid_token"') from refused
        except SyncError as error:
            self._deny(asked, "keys", "", error.message)
            raise Refusal(503, "tokens cannot be checked now", hint=refusal_of(error).detail) from error
        subject, role = str(claims["sub"]), role_of(self._verifier.roles(claims))
        if role is None:
            self._deny(asked, "role", subject, "no role")
            raise Refusal(
                403, "the token names no role", hint=f"one of: {', '.join(r.name.lower() for r in Role)}"
            )
        return Principal(subject, role, address, float(claims["exp"]))

    def _refuse_foreign(self, asked: HTTPConnection) -> None:
        """Without tokens only programs of this machine are answered, and no page in a browser here."""
        host = (asked.url.hostname or "").strip("[]")
        origin = asked.headers.get("origin")
        own = f"{asked.url.scheme.replace('ws', 'http')}://{asked.url.netloc}"
        if not is_loopback(host):
            self._deny(asked, "host", "", f"asked for as {host}")
        elif origin and origin not in self._config.cors and origin != own:
            self._deny(asked, "origin", "", f"a page of {origin}")
        else:
            return
        hint = "ask 127.0.0.1 or localhost, name the page's origin under api.cors, or set api.auth"
        raise Refusal(403, "only this machine is answered, since there is no api.auth", hint=hint)

    def _deny(self, asked: HTTPConnection, reason: str, subject: str, detail: str) -> None:
        self._denials.add(denial(asked, reason, subject, detail))

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
        response = answer(refusal)
        if scope["type"] == "http":
            await response(scope, receive, send)
            return
        await receive()  # the handshake's beginning
        await refuse_socket(send)


async def refuse_socket(send: Callable[[Message], Any]) -> None:
    """Refuse a WebSocket before it is open; the client sees 403."""
    await send({"type": "websocket.close", "code": 1008, "reason": "refused"})


def denial(asked: HTTPConnection, reason: str, subject: str, detail: str) -> Denial:
    """What is on record of somebody who was not let in."""
    address = asked.client.host if asked.client else ""
    method = asked.scope.get("method", "WEBSOCKET")
    return Denial(reason, subject, address, method, asked.url.path[:200], detail[:200])


def token_of(asked: HTTPConnection) -> str | None:
    """The token that was sent; a browser, which sets no headers of a WebSocket, sends it as subprotocol."""
    kind, _, token = asked.headers.get("authorization", "").partition(" ")
    if kind.lower() == BEARER and token.strip():
        return token.strip()
    if asked.scope["type"] == "websocket":
        offered = [p.strip() for p in asked.headers.get("sec-websocket-protocol", "").split(",")]
        if len(offered) == 2 and offered[0] == BEARER:
            return offered[1]
    return None


def may(role: Role, asked: HTTPConnection) -> Principal:
    """Who asks, if they have this role.

    Raises:
        Refusal: they have not.
    """
    principal: Principal | None = asked.state.principal
    if principal is None or principal.role < role:
        subject = principal.subject if principal else ""
        denials: Denials = asked.app.state.backend.denials
        denials.add(denial(asked, "role", subject, f"needs {role.name.lower()}"))
        raise Refusal(403, f"this needs the role {role.name.lower()}", hint="ask for a token with that role")
    return principal


def deny_values(asked: HTTPConnection, error: NotForRole) -> Refusal:
    """Put on record that somebody asked for what their role does not see; gives the answer."""
    principal: Principal | None = asked.state.principal
    denials: Denials = asked.app.state.backend.denials
    denials.add(denial(asked, "column", principal.subject if principal else "", error.message))
    return Refusal(403, error.message, hint=error.hint)


def install(app: FastAPI) -> None:
    """Let that be answered with 403, and errors so that they tell nobody more than their role sees."""

    @app.exception_handler(NotForRole)
    def refused(asked: Request, error: NotForRole) -> Response:
        return answer(deny_values(asked, error))

    @app.exception_handler(SyncError)
    def failed(asked: Request, error: SyncError) -> Response:
        refusal = refusal_of(error)
        who: Principal | None = getattr(asked.state, "principal", None)
        if error.node and who and (words := asked.app.state.backend.words(who)).limited:
            refusal.detail = f"{error.node}: {words.withheld}"  # a node's own words can quote a row
        return answer(refusal)


def at_least(role: Role) -> Any:
    """The dependency of a route that needs a role; gives who asks."""

    def check(request: Request) -> Principal:
        return may(role, request)

    return Depends(check)


def _unknown(detail: str, more: str) -> Refusal:
    challenge = {"WWW-Authenticate": f'Bearer realm="sync-worker"{more}'}
    return Refusal(401, detail, hint="'sync-worker token' issues one for development", headers=challenge)


def _too_many(seconds: float) -> Refusal:
    return Refusal(429, "too many requests", headers={"Retry-After": str(max(1, round(seconds)))})
