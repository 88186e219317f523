"""Images at addresses, from a server of this machine that is as hostile as it can be."""

import gzip
import http.server
import io
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from relearn.errors import ImageError
from relearn.inference import addresses
from relearn.inference.addresses import find_scheme, hide_secrets, read_address
from relearn.inference.inputs import find_files, read_content


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the path: what a test asks for."""

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        name, _, argument = self.path[1:].partition("/")
        getattr(self, f"send_{name}")(argument)

    def send_image(self, argument):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"image " + argument.encode())

    def send_status(self, argument):
        self.send_response(int(argument), "No\x1b[2JSuch")
        self.end_headers()

    def send_redirect(self, argument):
        self.send_response(302)
        self.send_header("Location", argument if "://" in argument else f"/{argument}")
        self.end_headers()

    def send_loop(self, argument):
        self.send_redirect(f"loop/{argument}x")

    def send_endless(self, argument):
        self.send_response(200)
        self.end_headers()
        self.write_on(b"x" * 1_000_000, 0)

    def send_zipped(self, argument):
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(gzip.compress(bytes(10_000_000)))

    def send_slow(self, argument):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self.write_on(b"x", 0.05)

    def write_on(self, content, seconds):
        try:
            for _ in range(1000):
                self.wfile.write(content)
                self.server.n_sent += len(content)
                time.sleep(seconds)
        except OSError:
            self.server.ended.set()

    def log_message(self, *arguments):
        pass


@contextmanager
def serve():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.n_sent, server.ended = [], 0, threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with serve() as server:
        server.address = f"http://127.0.0.1:{server.server_port}"
        yield server


def explain(address, **limits):
    with pytest.raises(ImageError) as caught:
        read_address(address, **limits)
    return str(caught.value)


def test_an_image_is_read_also_after_redirects(server):
    assert read_address(f"{server.address}/image/a?key=1") == b"image a?key=1"
    assert read_address(f"{server.address}/redirect/redirect/image/b") == b"image b"
    headers = server.asked[0][1]
    assert (headers["Accept-Encoding"], headers["User-Agent"]) == ("identity", "relearn")


def test_limits_hold_while_it_is_read(server):
    assert read_address(f"{server.address}/image/", max_bytes=6) == b"image "
    assert explain(f"{server.address}/image/x", max_bytes=6) == "too large: more than 6 bytes"
    start = time.monotonic()
    assert explain(f"{server.address}/slow", max_seconds=0.5) == "not downloaded within 0.5 s"
    assert time.monotonic() - start < 5
    assert server.ended.wait(60)  # the connection is closed
    assert explain(f"{server.address}/loop/") == "more than 5 redirects"


def test_an_endless_answer_is_not_read_to_its_end(server):
    assert explain(f"{server.address}/endless", max_bytes=2_000_000) == "too large: more than 2,000,000 bytes"
    assert server.ended.wait(10)
    assert server.n_sent < 500_000_000


def test_what_is_compressed_unasked_is_not_unpacked(server):
    assert len(read_address(f"{server.address}/zipped", max_bytes=20_000)) < 20_000


def test_what_the_server_refuses_is_the_reason(server):
    assert explain(f"{server.address}/status/404").startswith("the server answers 404 No")
    assert "cannot be downloaded: " in explain("http://127.0.0.1:1/x.png")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://example.org/x.png", "wanted an address that begins with https://, got http://"),
        ("ftp://127.0.0.1/x.png", "wanted an address that begins with https://, got ftp://"),
        ("s3://bucket/x.png", "wanted an address that begins with https://, got s3://"),
        ("https:///x.png", "wanted an address that begins with https://, got https://"),
        ("https://me:secret@example.org/x", "an address with a user name or a password is not read; leave them out"),
        ("https://exa mple.org:port/x", "not a valid address"),
        ("https://[::1/x", "not a valid address"),
    ],
)
def test_no_other_address_is_read(address, reason):
    assert explain(address) == reason


@pytest.mark.parametrize("target", ["http://example.org/x", "file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_no_redirect_leads_elsewhere(server, target):
    assert explain(f"{server.address}/redirect/{target}").startswith("wanted an address that begins with https://, got")


def test_https_does_not_lead_to_this_machine(server, monkeypatch):
    """A server elsewhere must not have what only this machine serves read."""
    import httpx

    def answer(request):
        return httpx.Response(302, headers={"Location": f"{server.address}/image/secret"})

    client = httpx.AsyncClient
    monkeypatch.setattr(
        httpx, "AsyncClient", lambda **options: client(**options, transport=httpx.MockTransport(answer))
    )
    assert explain("https://example.org/x.png") == "wanted an address that begins with https://, got http://"
    assert server.asked == []


def test_logs_show_no_secrets():
    shown = {
        "https://me:pa@ss@example.org/a@b/x.png?key=1&k=2#f": "https://example.org/a@b/x.png?...",
        "https://example.org/x.png#key": "https://example.org/x.png#...",
        "https://example.org?key": "https://example.org?...",
        "HTTPS://a@[": "HTTPS://[",
        "file:///a?b@c": "file:///a?b@c",
        "a/b?c@d": "a/b?c@d",
    }
    assert {name: hide_secrets(name) for name in shown} == shown


def test_names_that_are_addresses():
    names = ["https://x", "FILE:///x", "a.b+c-1://x", "a/b", "1://x", "://", "c:/x", "ä://x", "-"]
    assert [find_scheme(name) for name in names] == ["https", "file", "a.b+c-1", None, None, None, None, None, None]


def test_file_addresses_are_paths(tmp_path):
    (tmp_path / "ä b%.png").write_bytes(b"x")
    for address in (f"file://{tmp_path}/%C3%A4%20b%25.png", f"FILE://localhost{tmp_path}/ä b%25.png"):
        (file,) = find_files(address)
        assert (file.path, read_content(file)) == (address, b"x")
    reasons = {
        "file://": "wanted a file of this machine, such as file:///home/me/x.jpg, got another address",
        "file://host/x.png": "wanted a file of this machine, such as file:///home/me/x.jpg, got another address",
        "file:///x%00.png": "wanted a file of this machine, such as file:///home/me/x.jpg, got another address",
        f"file://{tmp_path}": "not a regular file",
        f"file://{tmp_path}/none": "cannot be read: No such file or directory",
    }
    assert {address: find_files(address)[0].refusal for address in reasons} == reasons


def test_standard_input_is_one_image(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"image")))
    (file,) = find_files("-")
    assert (file.path, read_content(file)) == ("-", b"image")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ImageError, match=r"^cannot be read: standard input is closed$"):
        read_content(file)


def test_offline_nothing_is_asked(server, monkeypatch):
    monkeypatch.setattr(addresses, "read_address", lambda *arguments: pytest.fail("asked"))
    for name in (f"{server.address}/image", "https://example.org/x.png", "ftp://example.org/x"):
        (file,) = find_files(name)
        with pytest.raises(ImageError, match=r"^addresses are not read offline$"):
            read_content(file)
    (file,) = find_files(f"{server.address}/image/a", is_online=True)
    assert read_content(file) == b"image a"
    assert [path for path, _ in server.asked] == ["/image/a"]
