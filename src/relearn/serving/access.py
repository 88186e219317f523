"""Who may ask, and what every answer says to a browser: around the application, before it reads a request."""

import hmac
import re
import time
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relearn.serving.measurements import Measurements
from relearn.serving.settings import Settings, is_loopback

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


# What a browser has to know of every answer; a page has a policy of its own.
ANSWER_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
POLICY = b"content-security-policy"
NO_PAGE = (POLICY, b"default-src 'none'; frame-ancestors 'none'")


class Guard:
    """Middleware that refuses who may not ask, and counts each request with its path and status.

    A browser names the site whose script asks in `Sec-Fetch-Site`, or in `Origin` if the server has no certificate.
    Without the check any page could send forms here. A page can also let its own name lead to 127.0.0.1, and then read
    the answers too (DNS rebinding): there, without a token, only the names of this machine are accepted in `Host`.
    """

    def __init__(self, app: ASGIApp, settings: Settings, measurements: Measurements) -> None:
        self._app = app
        self._token = None if settings.token is None else settings.token.encode()
        self._origins = settings.origins
        self._hosts = [origin.partition("://")[2] for origin in settings.origins]
        self._measurements = measurements

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # the answer to GET, of which the server sends the head alone
            scope = {**scope, "method": "GET"}
        start = time.perf_counter()
        path = scope["path"] if scope["path"] in PATHS else "other"
        status = 500

        async def _send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _add_headers(message["headers"])
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
        if self._has_other_host(scope, headers):
            wanted = "wanted localhost or 127.0.0.1 in the address"
            detail = f"{wanted}, got another name; `relearn serve --cors ORIGIN` allows it"
            return JSONResponse({"detail": detail}, 403)
        if scope["method"] != "GET" and self._is_foreign(headers):
            detail = "wanted a page of this server, got one of another; `relearn serve --cors ORIGIN` allows it"
            return JSONResponse({"detail": detail}, 403)
        if self._token is None or scope["path"] in OPEN_PATHS:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._token):
            return None
        detail = "wanted the header `Authorization: Bearer TOKEN` with the token of this server, got another or none"
        return JSONResponse({"detail": detail}, 401, {"WWW-Authenticate": "Bearer"})

    def _has_other_host(self, scope: Scope, headers: Headers) -> bool:
        host, server = headers.get("host"), scope.get("server")
        if self._token is not None or host is None or server is None or not is_loopback(server[0]):
            return False
        name = re.sub(r":[0-9]*$", "", host).strip("[]").lower()
        return not is_loopback(name) and host not in self._hosts

    def _is_foreign(self, headers: Headers) -> bool:
        """Return whether a page of another server asks."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin in self._origins:
            return False
        if site is not None:
            return site in ("cross-site", "same-site")
        return origin is not None and origin.partition("://")[2] != headers.get("host")


def _add_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    more = [*headers, *ANSWER_HEADERS]
    return more if any(name == POLICY for name, _ in more) else [*more, NO_PAGE]
