"""What a server allows one request, one connection, and all of them together."""

import ipaddress
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from relearn.errors import ParamsError

TOKEN = "RELEARN_TOKEN"  # noqa: S105
# Images of all requests that are decoded or wait for the model.
MAX_WAITING_IMAGES = 256
# Of one request; its others wait for these, so that many small requests fit beside a large one.
MAX_REQUEST_IMAGES = 16
# Requests in memory at once, each of the largest size.
N_LARGEST_REQUESTS = 4
# At its peak, decoding takes 8 bytes a pixel (`relearn.images.limits`). One larger image is decoded beside.
MAX_DECODING_BYTES = 1 << 30
# Threads that decode an image each, and run the model on it.
MAX_WORKERS = 8


class Settings(NamedTuple):
    """The limits of a server, and who may ask it.

    Attributes
    ----------
    max_bytes
        The body of one request.
    max_files
        One request.
    max_pixels
        One image.
    timeout_seconds
        To receive one request; twice that to receive and answer it.
    head_seconds
        A connection without a request, with the beginning of its head, or without the next bytes of its body.
    token
        What a request has to bring as `Authorization: Bearer TOKEN`; None if anyone may ask.
    origins
        Pages of other servers whose scripts may ask.
    record, record_limit_bytes
        Where images and answers are kept, and how much; None if nowhere.
    """

    max_bytes: int = 64 << 20
    max_files: int = 64
    max_pixels: int = 50_000_000
    timeout_seconds: float = 60
    head_seconds: float = 10.0
    token: str | None = None
    origins: tuple[str, ...] = ()
    record: Path | None = None
    record_limit_bytes: int = 1 << 30


def read_token() -> str | None:
    """Return `RELEARN_TOKEN`; None if it is not set.

    Raises
    ------
    ParamsError
        It is empty, or no HTTP header could hold it.
    """
    token = os.environ.get(TOKEN)
    if token is not None and not re.fullmatch("[!-~]{1,4096}", token):
        wanted = "1 to 4,096 letters, digits and signs of ASCII, without spaces"
        raise ParamsError(where=TOKEN, wanted=wanted, got=f"{len(token)} characters", advice="unset it, or set another")
    return token


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host by that name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
