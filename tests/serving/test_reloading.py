"""The next model takes over while requests are answered; a broken one does not."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from conftest import choose, draw_image, encode_image, wait_for
from inference.exports import write_export
from relearn.errors import IntegrityError
from relearn.inference.exported import ExportedModel, read_export_record
from relearn.retraining.release import switch_current
from relearn.serving import app, reloading
from relearn.serving.measurements import Measurements
from relearn.serving.reloading import Follower, load_model
from relearn.serving.served import ServedModel
from serving.conftest import run_server

PNG = encode_image(draw_image(3), "PNG")
VERSIONS = {"v1": ("blue", "red"), "v2": ("blue", "red", "green"), "v3": ("a", "b", "c", "d")}


@pytest.fixture
def release(tmp_path):
    for seed, (version, classes) in enumerate(VERSIONS.items()):
        write_export(tmp_path / "versions" / version, classes, size_px=4 + seed, version=version, seed=seed)
    switch_current(tmp_path, "v1")
    return tmp_path


@pytest.fixture
def follower(release):
    return Follower(release / "current", Measurements())


def test_link_is_followed(release, follower, caplog):
    first = follower.model
    follower.check()
    assert follower.model is first
    switch_current(release, "v2")
    follower.check()
    assert (follower.model.classes, follower.failure) == (list(VERSIONS["v2"]), None)
    assert b'relearn_reloads_total{outcome="done"} 1.0' in follower._measurements.describe()
    assert b'version="v2"' in follower._measurements.describe()
    assert b'version="v1"' not in follower._measurements.describe()


def test_folder_is_watched(tmp_path):
    write_export(tmp_path / "exported")
    follower = Follower(tmp_path / "exported", Measurements())
    write_export(tmp_path / "exported", VERSIONS["v2"], version="v2")
    follower.check()
    assert follower.model.record.version == "v2"


def break_model(folder):
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def break_record(folder):
    record = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**record, "classes": ["cat", "dog"]}))


def remove_model(folder):
    (folder / "model.onnx").unlink()


def remove_all(folder):
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize("damage", [break_model, break_record, remove_model, remove_all])
def test_broken_release_keeps_the_one_before(release, follower, damage, caplog):
    damage(release / "versions" / "v2")
    switch_current(release, "v2")
    for _ in range(3):
        follower.check()
    assert follower.model.record.version == "v1"
    assert follower.failure
    assert str(release) not in follower.failure
    assert b"relearn_reload_failed 1.0" in follower._measurements.describe()
    assert b'relearn_reloads_total{outcome="failed"} 1.0' in follower._measurements.describe()
    assert caplog.text.count("v1 (sha256 ") == 1
    switch_current(release, "v3")
    follower.check()
    assert (follower.model.record.version, follower.failure) == ("v3", None)
    assert b"relearn_reload_failed 0.0" in follower._measurements.describe()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(break_model, "wanted sha256 "), (remove_model, "model.onnx is missing; export the class")],
)
def test_model_that_changes_in_its_place_is_noticed(release, follower, damage, reason):
    folder = release / "versions" / "v1"
    content = (folder / "model.onnx").read_bytes()
    damage(folder)
    follower.check()
    assert follower.failure.startswith(reason)
    with pytest.raises(IntegrityError):
        Follower(folder, Measurements())
    (folder / "model.onnx").write_bytes(content)
    follower.check()
    assert (follower.model.record.version, follower.failure) == ("v1", None)


def test_way_back_after_a_broken_release(release, follower):
    remove_all(release / "versions" / "v2")
    switch_current(release, "v2")
    follower.check()
    assert follower.failure
    switch_current(release, "v1")
    follower.check()
    assert (follower.model.record.version, follower.failure) == ("v1", None)


def test_failure_of_any_kind_keeps_the_one_before_and_is_tried_again(release, follower, monkeypatch, caplog):
    for error in (TypeError("a\nb"), MemoryError(), OSError(24, "Too many open files")):
        with monkeypatch.context() as patch:
            patch.setattr(reloading, "RETRY_SECONDS", 0)
            patch.setattr(reloading, "load_model", lambda _, error=error: raise_error(error))
            switch_current(release, "v2")
            follower.check()
            assert (follower.model.record.version, bool(follower.failure)) == ("v1", True)
        follower.check()
        assert (follower.model.record.version, follower.failure) == ("v2", None)
        switch_current(release, "v1")
        follower.check()
    assert "v1 (sha256 " in caplog.messages[0]
    assert caplog.messages[0].endswith(r"failed: TypeError('a\nb')")


def raise_error(error):
    raise error


def test_failure_is_tried_again_after_a_pause_only(release, follower, monkeypatch):
    calls = []
    monkeypatch.setattr(reloading, "load_model", lambda folder: calls.append(folder) or raise_error(MemoryError()))
    switch_current(release, "v2")
    for _ in range(3):
        follower.check()
    assert calls == [release / "versions" / "v2"]


def test_link_that_is_switched_twice_within_a_check_leads_to_the_last_one(release, follower, monkeypatch):
    def switch_and_read(folder):
        switch_current(release, "v3")
        return read_export_record(folder)

    switch_current(release, "v2")
    with monkeypatch.context() as patch:
        patch.setattr(reloading, "read_export_record", switch_and_read)
        follower.check()
    switch_current(release, "v2")
    follower.check()
    assert follower.model.record.version == "v2"


def test_model_that_wavers_is_not_taken(release, monkeypatch):
    rows = {True: [0.5, 0.5], False: [0.25, 0.75]}
    monkeypatch.setattr(ServedModel, "predict_one", lambda *_, on_all_cores: np.array(rows[on_all_cores], np.float32))
    with pytest.raises(
        IntegrityError, match=r"wanted the same probabilities .* with any number of threads, got others"
    ):
        load_model(release / "current")


def test_no_model_is_an_error(tmp_path):
    with pytest.raises(IntegrityError, match="no exported model there; make one with `relearn export`"):
        Follower(tmp_path, Measurements())


def test_readiness_names_the_failure_and_stays(release, monkeypatch):
    monkeypatch.setattr(app, "RELOAD_SECONDS", 0.02)
    with run_server(release / "current") as (address, _):
        break_model(release / "versions" / "v2")
        switch_current(release, "v2")
        wait_for(lambda: httpx.get(f"{address}/readyz").json()["reload"] == "failed", 10)
        reply = httpx.get(f"{address}/readyz")
        assert reply.status_code == 200
        assert reply.json()["model"]["version"] == "v1"
        assert "wanted sha256" in reply.json()["reason"]
        assert str(release) not in reply.text


@pytest.mark.campaign
@pytest.mark.slow
def test_no_request_fails_while_releases_change(release, monkeypatch):
    monkeypatch.setattr(app, "RELOAD_SECONDS", 0.02)
    n_requests, n_switches, n_clients = choose(200, 2000), choose(4, 20), 4
    wanted = {name: ExportedModel(release / "versions" / name) for name in VERSIONS}
    rows = {name: model.predict_probabilities([model.read_image(PNG)])[0] for name, model in wanted.items()}
    expected = {
        name: {label: round(float(p), 6) for label, p in zip(VERSIONS[name], rows[name], strict=True)} for name in rows
    }
    seen, failed, is_over = [], [], threading.Event()

    def ask(_):
        n_left = n_requests // n_clients
        with httpx.Client(base_url=address, timeout=60) as client:
            while n_left > 0 or not is_over.is_set():
                n_left -= 1
                response = client.post("/predict", files=[("x", PNG), ("y", PNG)])
                reply = response.json()
                version = reply["model"]["version"]
                seen.append(version)
                if response.status_code != 200 or any(i["probabilities"] != expected[version] for i in reply["images"]):
                    failed.append(reply)

    def switch():
        try:
            for number in range(n_switches):
                version = f"v{2 - number % 2}" if number % 5 else "v3"
                switch_current(release, version)
                wait_for(lambda name=version: service.follower.model.record.version == name, 60)
        finally:
            is_over.set()

    with run_server(release / "current") as (address, service), ThreadPoolExecutor(n_clients + 1) as executor:
        switching = executor.submit(switch)
        list(executor.map(ask, range(n_clients)))
        switching.result(300)
    assert failed == []
    assert len(seen) >= n_requests
    assert len(set(seen)) > 1
