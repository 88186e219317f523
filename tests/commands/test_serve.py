"""`relearn serve`: what is served, and what is refused before anything is."""

import socket
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from inference.exports import write_export
from relearn.commands.serve import app, check_origin, find_exported
from relearn.errors import IntegrityError, ParamsError, RelearnError
from relearn.serving.running import open_socket, serve
from relearn.serving.settings import Settings, is_loopback, read_token


def test_release_is_served_if_it_was_exported(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IntegrityError, match=r"got none; run `make repro`, then `relearn export`$"):
        find_exported()
    Path("models").mkdir()
    write_export(Path("models/exported"))
    Path("release/versions/v1").mkdir(parents=True)
    Path("release/current").symlink_to("versions/v1")
    assert find_exported() == Path("models/exported")
    assert caplog.messages == ["release/current has no exported model (`retrain.export`), so models/exported is served"]
    write_export(Path("release/versions/v1"))
    assert find_exported() == Path("release/current")


def test_the_model_is_named_by_its_folder_or_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_export(Path("exported"))
    served = []
    monkeypatch.setattr("relearn.serving.running.serve", lambda folder, *_: served.append(folder))
    for name in ("exported", "exported/model.onnx"):
        assert CliRunner().invoke(app, [name]).exit_code == 0
    assert served == [Path("exported")] * 2
    answer = CliRunner().invoke(app, ["gone/model.onnx"])
    assert str(answer.exception) == "gone/model.onnx: no such file; `relearn export -o FOLDER` makes one"


def test_taken_port_is_one_line(tmp_path):
    write_export(tmp_path / "exported")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RelearnError, match=rf"^127\.0\.0\.1:{port}: wanted .*, got Address already in use; name "):
            serve(tmp_path / "exported", "127.0.0.1", port, Settings())


@pytest.mark.parametrize("host", ["203.0.113.1", "nowhere.invalid", "a" * 70])
def test_host_of_another_machine_is_one_line(host):
    with pytest.raises(RelearnError, match="wanted a host of this machine and a free port, got "):
        open_socket(host, 0)


@pytest.mark.parametrize("token", ["", "two words", "ü", "a\n", "x" * 5000])
def test_token_that_no_header_holds_is_refused(monkeypatch, token):
    monkeypatch.setenv("RELEARN_TOKEN", token)
    with pytest.raises(ParamsError, match=f"RELEARN_TOKEN: wanted .*, got {len(token)} characters"):
        read_token()


def test_token_is_read(monkeypatch):
    monkeypatch.delenv("RELEARN_TOKEN", raising=False)
    assert read_token() is None
    monkeypatch.setenv("RELEARN_TOKEN", "a-Z0~!")
    assert read_token() == "a-Z0~!"


@pytest.mark.parametrize("origin", ["https://example.org", "http://localhost:3000", "http://[::1]:80"])
def test_origin(origin):
    assert check_origin(origin) == origin


@pytest.mark.parametrize("origin", ["*", "null", "example.org", "https://example.org/", "https://EXAMPLE.org", ""])
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(typer.BadParameter, match="wanted an origin such as"):
        check_origin(origin)


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_loopback(host, expected):
    assert is_loopback(host) is expected
