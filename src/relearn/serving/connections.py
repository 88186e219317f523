"""Connections that end: uvicorn alone waits forever for a client that sends nothing, or reads nothing."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from relearn.serving.settings import Settings

MAX_CONNECTIONS = 512
LOOK_SECONDS = 1.0


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 within limits of time and number.

    A connection has `head_seconds` to send the head of its first request, or of a later one that it has begun. It has
    twice `timeout_seconds` from there until the whole answer is read. Above `MAX_CONNECTIONS` the connection that has
    waited longest for a request is closed; if none waits, the one that has sent a body for longest.

    Parameters
    ----------
    refuse
        Is called with the reason and the details of what is no request.
    """

    def __init__(self, settings: Settings, refuse: Callable[[str, str], None], **options: Any) -> None:
        super().__init__(**options)
        self._settings = settings
        self._refuse = refuse
        self._seen: tuple[object, bool] = (None, True)
        self.since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look after a connection."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()
        self._look()

    def _make_room(self) -> None:
        every = [other for other in self.connections if isinstance(other, BoundedProtocol)]
        still_open = [other for other in every if not other.transport.is_closing()]
        if len(still_open) > MAX_CONNECTIONS:
            min(still_open, key=self._rank).transport.abort()

    def _rank(self, other: "BoundedProtocol") -> tuple[int, float]:
        """Return what orders connections by how little is lost if they end."""
        if other is self:
            return 2, 0.0
        rank = 0 if other.is_waiting else 1 if other.cycle.more_body else 3
        return rank, other.since

    @property
    def is_waiting(self) -> bool:
        """Return whether no request is being received or answered."""
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        """Close the connection if nothing has happened for too long; else look again."""
        if self.transport.is_closing() and self.is_waiting:
            return
        seen = (self.cycle, self.is_waiting)
        is_kept = self.timeout_keep_alive_task is not None  # uvicorn ends it, if nothing of a next request comes
        if seen != self._seen or is_kept:
            self._seen, self.since = seen, self.loop.time()
        limit = self._settings.head_seconds if self.is_waiting else 2 * self._settings.timeout_seconds
        if self.loop.time() - self.since > limit:
            self.transport.abort()
            return
        self.loop.call_later(min(LOOK_SECONDS, limit / 4), self._look)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse("not HTTP", msg)
        super().send_400_response(msg)
