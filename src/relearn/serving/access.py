"""Who may ask, and what every answer says to a browser: around the application, before it reads a request."""

import hmac
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relearn.serving.measurements import Measurements
from relearn.serving.settings import Settings

PREDICT = "/predict"
# Pages without a secret, and what an orchestrator asks.
OPEN_PATHS = ("/", "/docs", "/openapi.json", "/healthz", "/readyz")
PATHS = (*OPEN_PATHS, PREDICT, "/model", "/metrics")
REASONS = {
    400: "malformed",
    401: "token",
    403: "another site",
    408: "slow",
    413: "too large a request",
    415: "type",
    503: "busy",
}


class Guard:
    """Middleware that refuses who may not ask, and counts each request with its path and status.

    A browser names the site whose script asks in `Sec-Fetch-Site`. Without the check any page could send forms here.
    """

    def __init__(self, app: ASGIApp, settings: Settings, measurements: Measurements) -> None:
        self._app = app
        self._token = None if settings.token is None else settings.token.encode()
        self._origins = settings.origins
        self._measurements = measurements

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        path = scope["path"] if scope["path"] in PATHS else "other"
        status = 500

        async def _send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers["Cache-Control"] = "no-store"
                headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
            await send(message)

        try:
            refusal = self._find_refusal(scope)
            await (refusal or self._app)(scope, receive, _send)
        finally:
            self._measurements.requests.labels(path, status).inc()
            if path == PREDICT:
                self._measurements.seconds.observe(time.perf_counter() - start)
            if status in REASONS:
                self._measurements.refuse(REASONS[status], f"{scope['method']} {path}: status {status}")

    def _find_refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        is_foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if is_foreign and scope["method"] != "GET" and headers.get("origin") not in self._origins:
            detail = "wanted a page of this server, got one of another; `relearn serve --cors ORIGIN` allows it"
            return JSONResponse({"detail": detail}, 403)
        if self._token is None or scope["path"] in OPEN_PATHS:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._token):
            return None
        detail = "wanted the header `Authorization: Bearer TOKEN` with the token of this server, got another or none"
        return JSONResponse({"detail": detail}, 401, {"WWW-Authenticate": "Bearer"})
