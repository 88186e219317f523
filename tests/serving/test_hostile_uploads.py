"""Uploads that mean harm: each is answered or refused, and others are answered meanwhile."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from conftest import choose, draw_image, encode_image, wait_for
from relearn.images.formats import FORMATS
from serving.test_connections import HEAD, connect, read_all
from test_hostile import KEPT, list_corpus, list_valid_files, make_png, mutate, repair_checksums

PNG = encode_image(draw_image(1), "PNG")
# What only the layout of a source refuses.
LAYOUT = r"hidden file|system file|layout"


@contextmanager
def start_command(folder, *options, **environment):
    """Yield the address and the process of `relearn serve`."""
    command = [sys.executable, "-m", "relearn", "serve", str(folder), "--port", "0", *options]
    environment = {**os.environ, **environment}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder.parent, env=environment)
    try:
        line = process.stderr.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+) answers by v1 \(sha256 [0-9a-f]{12}\), 2 classes$", line)
        assert found, line
        yield found[1], process
    finally:
        process.kill()
        process.communicate()


def read_peak_mebibytes(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def list_uploads(number):
    """Yield contents with the pattern of the reason, `KEPT`, or `...` where nothing is known."""
    corpus = [(content, expected) for _, content, expected in list_corpus() if not re.search(LAYOUT, expected or "")]
    chooser = random.Random(0)
    chooser.shuffle(corpus)
    yield from corpus[:number]
    valid = [content for name in FORMATS for content in list_valid_files(name)]
    for _ in range(number - len(corpus)):
        kinds = ("flip", "length", "delete", "insert", "repeat", "cut", "splice")
        changes = [
            (chooser.choice(kinds), chooser.random() ** 2, chooser.choice((3, 2**31, chooser.randrange(2**32))), b"\0x")
            for _ in range(chooser.randint(1, 4))
        ]
        content = mutate(chooser.choice(valid), changes, chooser.choice(valid))
        yield repair_checksums(content) if content.startswith(b"\x89PNG") else content, ...


NAMES = ("../../etc/passwd", "\0", "a" * 3000, "\x1b[31m.png", "CON", "<script>", "ü" * 300, "", '"; rm -rf /; "')
TYPES = ("image/png", "text/html", "image/jpeg; charset=\xe9", "x" * 300, "")


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_hostile_uploads(model_folder):
    number = choose(60, 1000)
    with (
        start_command(model_folder, "--max-pixels", "250000000") as (address, process),
        httpx.Client(base_url=address, timeout=120) as client,
    ):
        client.post("/predict", files={"x": PNG})
        before = read_peak_mebibytes(process.pid)
        for count, (content, expected) in enumerate(list_uploads(number)):
            name, kind = NAMES[count % len(NAMES)], TYPES[count % len(TYPES)]
            if count % 3 == 0 or not name:
                response = client.post("/predict", content=content, headers={"Content-Type": "image/png"})
            else:
                file = (name, content, kind.encode("latin-1").decode("latin-1"))
                response = client.post("/predict", files={"x": file})
            assert response.status_code in (200, 422), response.text
            (image,) = response.json()["images"]
            if expected is KEPT:
                assert "label" in image, image
            elif expected is not ...:
                assert re.search(expected, image["error"]), image
        grown = read_peak_mebibytes(process.pid) - before
        assert grown < 700, grown
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.post("/predict", files={"x": PNG}).status_code == 200


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_memory_is_bounded_and_others_are_answered(model_folder):
    """Uploads at once of images of 45 megapixels, bombs, and bodies that are larger than allowed."""
    large = make_png(0, size=(9000, 5000), header=(1, 0, 0, 0, 0), rows=bytes(1126 * 5000))
    bomb = make_png(0, size=(60_000, 60_000))
    with start_command(model_folder, "--max-bytes", "2000000", "--timeout", "20") as (address, process):
        before = read_peak_mebibytes(process.pid)
        connections = [connect(address) for _ in range(choose(12, 40))]
        for number, connection in enumerate(connections):
            content = (large, bomb, bytes(2_000_000))[number % 3]
            connection.sendall(HEAD % (len(content) if number % 2 else 10**15))
            with_body = content if number % 2 else content[:100_000]
            connection.sendall(with_body)
        for _ in range(3):
            assert httpx.post(f"{address}/predict", files={"x": PNG}, timeout=60).status_code == 200
        statuses = [read_all_until_answer(connection) for connection in connections]
        assert set(statuses) <= {b"200", b"413", b"422", b"503"}
        assert statuses.count(b"413") >= len(connections) // 2
        assert read_peak_mebibytes(process.pid) - before < 600
        for connection in connections:
            connection.close()


def read_all_until_answer(connection):
    received = b""
    connection.settimeout(60)
    while b"\r\n\r\n" not in received:
        part = connection.recv(65536)
        if not part:
            break
        received += part
    return received.split(b" ")[1]


FORM = (
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    b"Content-Length: %d\r\n\r\n"
)
PART = b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (PART + b"X: " + b"y" * 1_000_000 + b"\r\n\r\n" + PNG + b"\r\n--x--\r\n", 400),
        (PART + b"X: y\r\n" * 10_000 + b"\r\n" + PNG + b"\r\n--x--\r\n", 400),
        ((PART + b"\r\n\r\n") * 3_000 + b"--x--\r\n", 413),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 3_000 + b"--x--\r\n", 400),
        (PART + b"\r\n" + PNG, 400),
        (b"--x\r\n\r\n" + PNG + b"\r\n--x--\r\n", 400),
        (PART + b"\r\n" + PNG + b"\r\n" + PART + b"\r\n" + PNG[:9], 400),
        (b"-" * 1_000_000, 400),
        (b"", 400),
    ],
)
def test_forms_that_lie(address, body, status):
    with connect(address) as connection:
        connection.sendall(FORM % len(body))
        try:
            connection.sendall(body)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        received = read_all(connection)
    assert received.startswith(b"HTTP/1.1 %d " % status), received
    assert httpx.post(f"{address}/predict", files={"x": PNG}).status_code == 200


@pytest.mark.parametrize("charset", [b"undefined", b"idna", b"punycode", b"utf-16", b"rot13", b"x\xff"])
def test_charset_of_a_form_is_no_error_of_the_server(address, charset):
    headers = {"Content-Type": b"multipart/form-data; boundary=x; charset=" + charset}
    response = httpx.post(f"{address}/predict", content=PART + b"\r\n" + PNG + b"\r\n--x--\r\n", headers=headers)
    assert response.status_code in (200, 400), response.text
    if charset == b"undefined":
        assert response.json() == {"detail": "wanted a form of files in UTF-8, got another charset"}


@pytest.mark.slow
def test_sigterm_answers_what_has_begun_and_ends(model_folder, tmp_path):
    with start_command(model_folder, "--record", str(tmp_path)) as (address, process):
        with connect(address) as connection, connect(address):
            connection.sendall(HEAD % len(PNG) + PNG[:20])
            wait_for(lambda: httpx.get(f"{address}/healthz").status_code == 200, 10)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            connection.sendall(PNG[20:])
            assert read_all(connection).startswith(b"HTTP/1.1 200 ")
        assert process.wait(20) == -signal.SIGTERM
        # The request for /healthz may not have ended on the server's side.
        waits = r"(1 request is|2 requests are) answered first, within 25 s; a second signal ends at once\n"
        assert re.fullmatch(waits, process.stderr.read())
    assert len(list((tmp_path / ".unlabeled").iterdir())) == 2
