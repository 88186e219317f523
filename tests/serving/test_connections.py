"""Clients that send nothing, or slowly, or what is no HTTP: they are cut, and the others are answered."""

import contextlib
import logging
import signal
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest

from conftest import choose, draw_image, encode_image
from relearn.serving import connections, running
from relearn.serving.running import make_server, open_socket
from relearn.serving.settings import Settings
from serving.conftest import run_server

PNG = encode_image(draw_image(1), "PNG")
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"


def connect(address):
    parts = urlsplit(address)
    connection = socket.create_connection((parts.hostname, parts.port))
    connection.settimeout(20)
    return connection


def read_all(connection):
    """Return what comes until the server closes the connection."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


def read_answer(connection):
    """Return an answer of a connection that stays open."""
    received = b""
    while b'"images"' not in received:
        received += connection.recv(65536)
    return received


def test_the_end_of_an_answer_does_not_wait_for_an_acknowledgment():
    with open_socket("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.fixture(scope="module")
def hasty(model_folder):
    with run_server(model_folder, timeout_seconds=0.6, head_seconds=0.4) as (address, service):
        yield address, service


def test_connections_that_send_nothing_are_cut_and_others_are_answered(hasty):
    address, _ = hasty
    n_silent = choose(40, 200)
    silent = [connect(address) for _ in range(n_silent)]
    for number in range(5):
        assert httpx.post(f"{address}/predict", files={"x": PNG}).status_code == 200, number
    start = time.monotonic()
    assert [read_all(connection) for connection in silent] == [b""] * n_silent
    assert time.monotonic() - start < 10
    for connection in silent:
        connection.close()


def test_head_that_does_not_end_is_cut(hasty):
    address, _ = hasty
    with connect(address) as connection:
        start = time.monotonic()
        try:
            while time.monotonic() - start < 10:
                connection.sendall(
                    b"POST /predict HTTP/1.1\r\nX-A: b\r\n" if time.monotonic() == start else b"X-A: b\r\n"
                )
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() - start < 5


def test_body_that_comes_too_slowly_is_408(hasty):
    address, service = hasty
    with connect(address) as connection:
        connection.sendall(HEAD % 1000)
        for number in range(6):
            connection.sendall(PNG[number : number + 1])
            time.sleep(0.1)
        received = read_all(connection)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"wanted the whole request within 0.6 seconds" in received
    assert service.uploads._n_free_bytes == 4 * service.settings.max_bytes


def test_body_that_stops_is_408_before_the_whole_time_is_over(model_folder):
    with run_server(model_folder, head_seconds=0.2) as (address, _), connect(address) as connection:
        connection.sendall(HEAD % 1000 + PNG[:10])
        received = read_all(connection)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"wanted the next bytes within 0.2 seconds" in received


def test_client_that_leaves_gives_back_its_bytes(hasty, caplog):
    address, service = hasty
    with connect(address) as connection:
        connection.sendall(HEAD % 1000)
        connection.sendall(PNG[:10])
        time.sleep(0.1)
    deadline = time.monotonic() + 5
    while service.uploads._n_free_bytes != 4 * service.settings.max_bytes and time.monotonic() < deadline:
        time.sleep(0.01)
    assert service.uploads._n_free_bytes == 4 * service.settings.max_bytes
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize(
    "content",
    [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"],
)
def test_what_is_no_http_is_400(hasty, content):
    address, service = hasty
    with connect(address) as connection:
        connection.sendall(content)
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")
    assert b'relearn_refusals_total{reason="not HTTP"}' in service.measurements.describe()


def test_broken_chunks_are_400(hasty, caplog):
    address, _ = hasty
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    for body in (b"zz\r\n", b"3\r\nabcdef\r\n", b"-1\r\n"):
        with connect(address) as connection:
            connection.sendall(head)
            time.sleep(0.05)
            connection.sendall(body)
            assert read_all(connection).startswith(b"HTTP/1.1 400 "), body
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("where", ["address", "name", "value", "many", "after the last chunk", "beside a chunk"])
def test_head_that_is_too_long_ends_the_connection(hasty, where):
    """Nothing of it may pile up in memory, wherever a client puts it."""
    address, _ = hasty
    chunked = HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked")
    begin, part = {
        "address": (b"GET /", b"a"),
        "name": (b"GET / HTTP/1.1\r\n", b"a"),
        "value": (b"GET / HTTP/1.1\r\nX-A: ", b"a"),
        "many": (b"GET / HTTP/1.1\r\n", b"X-A: b\r\n"),
        "after the last chunk": (chunked + b"1\r\na\r\n0\r\nX-A: ", b"a"),
        "beside a chunk": (chunked + b"1;x=", b"a"),
    }[where]
    n_sent = 0
    with connect(address) as connection:
        connection.sendall(begin)
        try:
            while n_sent < 1 << 24:
                connection.sendall(part * (8192 // len(part)))
                n_sent += 8192
        except OSError:
            pass
    assert n_sent < 1 << 23  # what the buffers of the system hold comes to it


def test_head_of_60_kilobytes_is_read(hasty):
    address, _ = hasty
    assert httpx.get(f"{address}/healthz", headers={"X-A": "a" * 60_000}).status_code == 200


def test_requests_that_do_not_wait_for_answers_are_answered_in_order(hasty):
    address, _ = hasty
    with connect(address) as connection:
        requests = [b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in (b"healthz", b"nothing") * 5]
        requests[-1] = requests[-1].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        connection.sendall(b"".join(requests))
        received = read_all(connection)
    assert [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404"] * 5


def test_offer_of_http_2_is_answered_by_http_1(hasty):
    """Java's client offers it with each first request."""
    address, _ = hasty
    head = HEAD.replace(b"Host", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nHost")
    with connect(address) as connection:
        for _ in range(2):
            connection.sendall(head % len(PNG) + PNG)
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_content_length_that_is_too_small_hurts_nobody(hasty):
    address, _ = hasty
    with connect(address) as connection:
        connection.sendall(HEAD % 20 + PNG)
        assert read_all(connection).startswith(b"HTTP/1.1 422 ")
    assert httpx.post(f"{address}/predict", files={"x": PNG}).status_code == 200


def test_connection_is_kept_between_requests(hasty):
    address, _ = hasty
    with connect(address) as connection:
        for _ in range(2):
            connection.sendall(HEAD % len(PNG) + PNG)
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.8)  # longer than the time for a head


def test_above_the_greatest_number_the_one_that_waited_longest_is_cut(hasty, monkeypatch):
    address, _ = hasty
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    several = []
    for _ in range(6):
        several.append(connect(address))
        time.sleep(0.02)
    assert httpx.post(f"{address}/predict", files={"x": PNG}).status_code == 200
    assert read_all(several[0]) == b""
    for connection in several:
        connection.close()


def count_open(several):
    n_open = 0
    for connection in several:
        connection.setblocking(False)
        try:
            n_open += connection.recv(1) != b""
        except BlockingIOError:
            n_open += 1
        except ConnectionResetError:
            pass
    return n_open


def test_burst_of_connections_is_cut_to_the_greatest_number(address, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 5)
    several = [connect(address) for _ in range(60)]
    assert httpx.get(f"{address}/healthz").status_code == 200  # so all of them have been accepted
    assert count_open(several) <= 5
    for connection in several:
        connection.close()


def test_bodies_that_do_not_end_keep_nobody_out(address, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    several = []
    for _ in range(3):
        several.append(connect(address))
        several[-1].sendall(HEAD % 1000 + PNG[:1])
        time.sleep(0.05)  # the server has read it before the next one comes
    assert httpx.get(f"{address}/healthz").status_code == 200
    assert count_open(several) == 2
    for connection in several:
        connection.close()


def test_request_that_does_not_arrive_ends_with_the_server(model_folder, monkeypatch, caplog):
    monkeypatch.setattr(running, "ARRIVAL_SECONDS", 0.3)
    with contextlib.ExitStack() as stack:
        address, _ = stack.enter_context(run_server(model_folder))
        server = stack.pop_all()
        late, in_time = (stack.enter_context(connect(address)) for _ in range(2))
        for connection in (late, in_time):
            connection.sendall(HEAD % len(PNG) + PNG[:20])
        time.sleep(0.2)
        threading.Timer(0.1, in_time.sendall, [PNG[20:]]).start()
        server.close()
        assert read_all(in_time).startswith(b"HTTP/1.1 200 ")
        received = read_all(late)
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in received.lower()
        assert received.endswith(b'{"detail":"the server ends; try again"}')
    assert [record for record in caplog.records if record.exc_info] == []


def test_server_says_what_it_waits_for_and_ends_quietly_at_a_second_signal(model_folder, caplog):
    caplog.set_level(logging.INFO, "relearn")
    server = make_server(model_folder, Settings())
    server.server_state.tasks |= {1, 2}
    server.handle_exit(signal.SIGINT, None)
    assert caplog.messages == ["2 requests are answered first, within 25 s; a second signal ends at once"]
    level = logging.getLogger("uvicorn").level
    try:
        server.handle_exit(signal.SIGINT, None)
        assert server.force_exit
        assert not logging.getLogger("uvicorn.error").isEnabledFor(logging.ERROR)
    finally:
        logging.getLogger("uvicorn").setLevel(level)


@pytest.mark.slow
def test_answer_that_is_not_read_ends(hasty):
    """A client that asks and never reads would keep its answers in memory."""
    address, _ = hasty
    with connect(address) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        closed = threading.Event()

        def ask():
            try:
                while True:
                    connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            except OSError:
                closed.set()

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        assert closed.wait(15)
