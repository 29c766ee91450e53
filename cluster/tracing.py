"""Whether the collector of traces takes spans; see `actors.tracing`."""

from __future__ import annotations

import ssl
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from actors.tracing import PATH, TracingConfig
from replication.engine import Finding

ANSWER_SECONDS = 5.0
_HINTS = {
    401: "correct tracing.headers",
    403: "correct tracing.headers",
    404: f"correct tracing.endpoint: it is the address before {PATH}",
}


def findings(config: TracingConfig | None) -> list[Finding]:
    """What is wrong with the collector. A group starts without it, so nothing of it is an error."""
    if config is None:
        return []
    url = config.endpoint.rstrip("/") + PATH
    about = {**config.headers, "Content-Type": "application/x-protobuf"}
    hint = "start it, or correct tracing.endpoint"
    try:  # no bytes are a request without spans
        trusted = ssl.create_default_context(cafile=config.ca) if url.startswith("https:") else None
        urlopen(Request(url, b"", about), timeout=ANSWER_SECONDS, context=trusted).close()
    except HTTPError as refused:
        error, hint = f"it answers {refused.code} {refused.reason}", _HINTS.get(refused.code, hint)
    except (OSError, HTTPException) as away:
        error = str(getattr(away, "reason", away))
    else:
        return []
    remedy = f"{hint}; until then the group runs, and its spans are lost"
    return [Finding("warning", "tracing", f"the collector does not take spans: {error}", remedy)]
