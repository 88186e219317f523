"""An image at an address: https:// with limits of size, time and redirects; file:// is a path."""

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from relearn.errors import ImageError
from relearn.images.decoding import MAX_BYTES
from relearn.runtime.text import escape_controls

if TYPE_CHECKING:
    import httpx

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://", re.ASCII)
MAX_SECONDS = 60.0
MAX_REDIRECTS = 5
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


def find_scheme(name: str) -> str | None:
    """Return the scheme of an address in lower case; None for a path."""
    match = ADDRESS.match(name)
    return match[1].lower() if match else None


def hide_secrets(name: str) -> str:
    """Return an address as a log may show it: without user name, password and query; a path as it is."""
    if find_scheme(name) in (None, "file"):
        return name
    return re.sub(r"([?#]).*", r"\1...", re.sub(r"(?<=://)[^/?#]*@", "", name, count=1), count=1, flags=re.DOTALL)


def show_name(name: str) -> str:
    """Return a path or an address in one line, as a terminal and a page may show it; see `hide_secrets`."""
    return escape_controls(hide_secrets(name))


def locate_file(address: str) -> str:
    """Return the path of a `file://` address.

    Raises
    ------
    ImageError
        It names another host, or no path.
    """
    host, slash, rest = address.partition("://")[2].partition("/")
    path = unquote(slash + rest, errors="surrogateescape")
    if host.lower() not in ("", "localhost") or not path or "\0" in path:
        raise ImageError(wanted="a file of this machine, such as file:///home/me/x.jpg", got="another address")
    return path


def read_address(address: str, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS) -> bytes:
    """Download an image.

    Parameters
    ----------
    address
        `https://`; `http://` is read from this machine only. It may hold no user name and no password.
    max_bytes, max_seconds
        Limits for the whole download; it ends as soon as one is reached.

    Raises
    ------
    ImageError
        It cannot be downloaded within the limits; the text is the reason alone.
    """
    import asyncio  # it and ssl would cost a prediction of files a tenth of a second

    import httpx

    try:
        return asyncio.run(asyncio.wait_for(_download(address, max_bytes), max_seconds))
    except TimeoutError:
        raise ImageError(f"not downloaded within {max_seconds:g} s") from None
    except (httpx.InvalidURL, ValueError):  # whose text may hold a part of the address
        raise ImageError("not a valid address") from None
    except (httpx.HTTPError, OSError) as error:
        raise ImageError(f"cannot be downloaded: {str(error) or type(error).__name__}") from None


async def _download(address: str, max_bytes: int) -> bytes:
    import ssl

    import httpx

    url = httpx.URL(address)
    may_be_local = _is_local(url)
    headers = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "relearn"}
    context = ssl.create_default_context()  # the certificates of the system, as pip and git trust them
    async with httpx.AsyncClient(
        verify=context, headers=headers, follow_redirects=False, timeout=MAX_SECONDS
    ) as client:
        for _ in range(MAX_REDIRECTS + 1):
            _check(url, may_be_local)
            async with client.stream("GET", url) as response:
                if response.next_request is None:
                    return await _read(response, max_bytes)
                url = response.next_request.url
    raise ImageError(f"more than {MAX_REDIRECTS} redirects")


async def _read(response: "httpx.Response", max_bytes: int) -> bytes:
    if response.status_code != 200:
        raise ImageError(f"the server answers {response.status_code} {response.reason_phrase}".rstrip())
    content = bytearray()
    async for chunk in response.aiter_raw(65536):  # as sent: no compression was asked for, and it could hide the size
        content += chunk
        if len(content) > max_bytes:
            raise ImageError(f"too large: more than {max_bytes:,} bytes")
    return bytes(content)


def _check(url: "httpx.URL", may_be_local: bool) -> None:
    if url.userinfo:
        raise ImageError("an address with a user name or a password is not read; leave them out")
    if not url.host or not (url.scheme == "https" or (may_be_local and _is_local(url))):
        raise ImageError(wanted="an address that begins with https://", got=f"{url.scheme}://")


def _is_local(url: "httpx.URL") -> bool:
    return url.scheme == "http" and url.host in LOCAL_HOSTS
