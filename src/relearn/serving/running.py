"""A server on a socket, until a signal ends it."""

import logging
import os
import socket
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from relearn.errors import RelearnError
from relearn.serving.app import make_app
from relearn.serving.connections import BoundedProtocol
from relearn.serving.reloading import describe_model
from relearn.serving.settings import TOKEN, Settings, is_loopback

log = logging.getLogger(__name__)

# Longer than a proxy keeps a connection without a request, so that it never sends one into a closed connection.
KEEP_ALIVE_SECONDS = 75
# Kubernetes kills 30 seconds after SIGTERM.
SHUTDOWN_SECONDS = 25
# Of these, in which a request must have arrived.
ARRIVAL_SECONDS = 15


def open_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises
    ------
    RelearnError
        The host is no address of this machine, or the port is taken or not allowed.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=256)
        # Otherwise the end of an answer waits for the client's delayed acknowledgment, 40 ms: asyncio turns Nagle's
        # algorithm off only on sockets that name their protocol. What is accepted inherits the option.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or error
        wanted, advice = "a host of this machine and a free port", "name others with --host and --port"
        raise RelearnError(where=f"{host}:{port}", wanted=wanted, got=reason, advice=advice) from None


class Server(uvicorn.Server):
    """A server that says what it waits for when a signal ends it."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; end at once if that has begun."""
        if self.should_exit:
            logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # a traceback for each request that is cut
        elif n_requests := len(self.server_state.tasks):
            waits = f"{n_requests} requests are" if n_requests > 1 else "1 request is"
            log.info("%s answered first, within %d s; a second signal ends at once", waits, SHUTDOWN_SECONDS)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what arrives in time."""
        self.config.app.state.service.uploads.end(ARRIVAL_SECONDS)  # type: ignore[union-attr]
        await super().shutdown(sockets)


def make_server(folder: Path, settings: Settings) -> Server:
    """Return a server for the model of a folder; its `run` takes the sockets.

    Raises
    ------
    IntegrityError
        There is no model, or it is damaged.
    """
    app = make_app(folder, settings)
    protocol: Any = partial(BoundedProtocol, settings, app.state.service.measurements.refuse)
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return Server(config)


def serve(folder: Path, host: str, port: int, settings: Settings) -> None:
    """Answer requests until SIGTERM or SIGINT; what has begun is answered.

    Raises
    ------
    RelearnError
        The port cannot be had, or there is no sound model.
    """
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # its warnings are one per bad request
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # so are these; the answer has the reason
    with open_socket(host, port) as listening:
        server = make_server(folder, settings)
        found = listening.getsockname()
        name = f"[{found[0]}]" if ":" in found[0] else found[0]
        if not is_loopback(found[0]) and settings.token is None:
            log.warning("warning: %s is not this machine alone, and anyone there may ask; set %s", host, TOKEN)
        model = server.config.app.state.service.follower.model  # type: ignore[union-attr]
        log.info("http://%s:%d answers by %s, %d classes", name, found[1], describe_model(model), len(model.classes))
        server.run(sockets=[listening])
