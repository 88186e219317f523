"""A server of an exported model in a thread of this process."""

import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from inference.exports import write_export
from relearn.serving.running import make_server, open_socket
from relearn.serving.settings import Settings


@contextmanager
def run_server(folder, **limits):
    """Yield the address of a server on a free port, and the service behind it."""
    listening = open_socket("127.0.0.1", 0)
    server = make_server(folder, Settings(**limits))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.started
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", server.config.app.state.service
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "exported"
    write_export(folder)
    return folder


@pytest.fixture(scope="module")
def address(model_folder):
    with run_server(model_folder) as (address, _):
        yield address


@pytest.fixture(scope="module")
def client(address):
    with httpx.Client(base_url=address, timeout=30) as client:
        yield client
