"""The files of one request, in memory, within its limits of bytes, number and time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NamedTuple

import python_multipart  # noqa: F401  # starlette parses forms with it, and would miss it only then
from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import Message

from relearn.serving.settings import N_LARGEST_REQUESTS, Settings

MAX_FIELDS = 100  # parts of a form that are no files; they are ignored
MAX_NAME_LENGTH = 255
# What is still on its way after a refusal is read for this long: a client that sends cannot read the refusal.
DRAINED_SECONDS = 2.0
RETRY = {"Retry-After": "1"}


class Upload(NamedTuple):
    """One file: its name as the client gave it, empty without one, and its bytes."""

    name: str
    content: bytes


class _MemoryParser(MultiPartParser):
    spool_max_size = 1 << 40  # never a file on the disk: the body has a limit of its own
    is_complete = False

    def on_end(self) -> None:
        """Note the last boundary: what ends without it is cut."""
        self.is_complete = True

    def close(self) -> None:
        """Forget the files."""
        for file in self._files_to_close_on_error:
            file.close()


class UploadReader:
    """Reads requests; all that are in memory at once share one limit.

    Parameters
    ----------
    settings
        The limits.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._n_free_bytes = N_LARGEST_REQUESTS * settings.max_bytes
        self._limits: set[asyncio.Timeout] = set()
        self._is_ending = False

    def end(self, n_seconds: float) -> None:
        """Refuse the requests that have not arrived after some seconds, because the server ends."""
        self._is_ending = True
        ends_at = asyncio.get_running_loop().time() + n_seconds
        for limit in self._limits:
            limit.reschedule(min(ends_at, limit.when() or ends_at))

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncGenerator[list[Upload], None]:
        """Yield the files of a request; their bytes count as in memory until the block ends.

        Raises
        ------
        HTTPException
            400: no form, no file, or the client left. 408: too slow. 413: too many bytes or files. 415: another type.
            503: too many bytes of other requests are in memory, or the server ends.
        """
        n_taken = 0
        comes_more = True

        async def _receive() -> AsyncGenerator[bytes, None]:
            nonlocal n_taken, comes_more
            while comes_more:
                message = await self._receive(request)
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                comes_more = message.get("more_body", False)
                chunk = message.get("body", b"")
                n_taken += len(chunk)
                self._n_free_bytes -= len(chunk)
                if n_taken > self._settings.max_bytes:
                    raise _refuse_size(self._settings)
                if self._n_free_bytes < 0:
                    raise HTTPException(503, "too many bytes of other requests are in memory; try again", RETRY)
                yield chunk

        try:
            yield await self._collect(request, _receive())
        except HTTPException as error:
            if comes_more and error.status_code in (413, 503):
                await _drain(request)
            raise
        finally:
            self._n_free_bytes += n_taken

    async def _receive(self, request: Request) -> Message:
        n_seconds = self._settings.head_seconds
        try:
            async with asyncio.timeout(n_seconds):
                return await request.receive()
        except TimeoutError:
            raise _refuse_slowness(f"the next bytes within {n_seconds:g} seconds") from None

    async def _collect(self, request: Request, stream: AsyncGenerator[bytes, None]) -> list[Upload]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        is_form = kind == "multipart/form-data"
        if not is_form and not kind.startswith("image/") and kind != "application/octet-stream":
            wanted = "wanted multipart/form-data, image/* or application/octet-stream"
            raise HTTPException(415, f"{wanted}, got {kind[:80] or 'no Content-Type'}")
        stated = request.headers.get("content-length", "0")
        if stated.isdecimal() and int(stated[:20]) > self._settings.max_bytes:
            raise _refuse_size(self._settings)
        try:
            async with asyncio.timeout(self._settings.timeout_seconds) as limit:
                self._limits.add(limit)
                try:
                    if is_form:
                        return await self._read_form(request, stream)
                    return [Upload("", b"".join([chunk async for chunk in stream]))]
                finally:
                    self._limits.discard(limit)
        except ClientDisconnect:
            raise HTTPException(400, "wanted the whole request, got its beginning") from None
        except TimeoutError:
            if self._is_ending:
                raise HTTPException(503, "the server ends; try again", RETRY) from None
            raise _refuse_slowness(f"the whole request within {self._settings.timeout_seconds:g} seconds") from None

    async def _read_form(self, request: Request, stream: AsyncGenerator[bytes, None]) -> list[Upload]:
        max_files = self._settings.max_files
        parser = _MemoryParser(request.headers, stream, max_files=max_files, max_fields=MAX_FIELDS)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if error.message.startswith("Too many files"):
                wanted = f"wanted at most {max_files:,} files in one request"
                raise HTTPException(413, f"{wanted}, got more; send fewer") from None
            raise HTTPException(400, f"wanted a form of files, got {error.message}") from None
        except ValueError:  # `charset=undefined` raises UnicodeError
            raise HTTPException(400, "wanted a form of files in UTF-8, got another charset") from None
        try:
            if not parser.is_complete:
                raise HTTPException(400, "wanted a form of files, got one that is cut")
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            if not files:
                raise HTTPException(400, 'wanted at least one file, got none; `curl -F "image=@photo.jpg"` sends one')
            return [Upload(_clean_name(file.filename), await file.read()) for file in files]
        finally:
            parser.close()


def _clean_name(name: str | None) -> str:
    return (name or "")[:MAX_NAME_LENGTH].encode("utf-8", "replace").decode()


def _refuse_size(settings: Settings) -> HTTPException:
    return HTTPException(413, f"wanted at most {settings.max_bytes:,} bytes in one request, got more; send fewer files")


def _refuse_slowness(wanted: str) -> HTTPException:
    return HTTPException(408, f"wanted {wanted}; send less at once", {"Connection": "close"})


async def _drain(request: Request) -> None:
    """Read and forget what still comes, for a short time."""
    try:
        async with asyncio.timeout(DRAINED_SECONDS):
            while (message := await request.receive())["type"] == "http.request" and message.get("more_body"):
                pass
    except TimeoutError:
        pass
