"""What is kept of the images that were asked about."""

import hashlib
import json
from pathlib import Path

import httpx

from conftest import draw_image, encode_image
from relearn.retraining.landing import NOW, Landing
from relearn.serving import recording
from relearn.serving.measurements import Measurements
from relearn.serving.recording import BLOCK_BYTES, Recorder
from serving.conftest import run_server

IMAGES = [encode_image(draw_image(seed), "PNG") for seed in range(4)]
JPEG = encode_image(draw_image(5), "JPEG")


def read_lines(folder):
    return [json.loads(line) for line in (folder / ".unlabeled" / "answers.jsonl").read_text().splitlines()]


def test_images_and_answers_are_kept(model_folder, tmp_path):
    folder = tmp_path / "landing"
    with run_server(model_folder, record=folder) as (address, _):
        for content in (IMAGES[0], JPEG, IMAGES[0]):
            reply = httpx.post(f"{address}/predict", files={"x": ("../../name.png", content)}).json()
        httpx.post(f"{address}/predict", files={"x": b"no image"})
    names = {f"{hashlib.sha256(IMAGES[0]).hexdigest()}.png", f"{hashlib.sha256(JPEG).hexdigest()}.jpeg"}
    assert {path.name for path in (folder / ".unlabeled").iterdir()} == {*names, "answers.jsonl"}
    assert (folder / ".unlabeled" / f"{hashlib.sha256(JPEG).hexdigest()}.jpeg").read_bytes() == JPEG
    lines = read_lines(folder)
    assert [line["sha256"] for line in lines] == [hashlib.sha256(c).hexdigest() for c in (IMAGES[0], JPEG, IMAGES[0])]
    assert lines[2].pop("time")
    assert lines[2] == {**reply["images"][0], "model": reply["model"]}
    assert (folder / ".unlabeled").stat().st_mode & 0o777 == 0o700


def test_oldest_stay_and_then_nothing_more_is_kept(tmp_path, caplog):
    answers = [{"sha256": hashlib.sha256(content).hexdigest()} for content in IMAGES]
    n_line = len(json.dumps({"time": "2026-01-01T00:00:00+00:00", **answers[0]})) + 1
    limit = 2 * (BLOCK_BYTES + n_line) + 5
    assert sum(map(len, IMAGES)) < BLOCK_BYTES  # so that blocks are what fills it
    for _ in range(2):  # what is there counts after a start, too
        recorder = Recorder(tmp_path, limit, Measurements())
        for content, answer in zip(IMAGES, answers, strict=True):
            recorder.record(content, answer)
        recorder.close()
        assert [line["sha256"] for line in read_lines(tmp_path)] == [answer["sha256"] for answer in answers[:2]]
        assert sum(path.stat().st_size for path in (tmp_path / ".unlabeled").iterdir()) <= limit
    assert caplog.text.count("no more images are recorded") == 2


def test_what_cannot_wait_is_counted(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(recording, "MAX_PENDING_BYTES", 10)
    measurements = Measurements()
    recorder = Recorder(tmp_path, 1 << 20, measurements)
    for _ in range(3):
        recorder.record(IMAGES[0], {"sha256": "0" * 64})
    recorder.close()
    assert list((tmp_path / ".unlabeled").iterdir()) == []
    assert b'relearn_refusals_total{reason="not recorded"} 3.0' in measurements.describe()
    assert caplog.messages == ["refused: not recorded: 10 bytes wait for the disk"]


def test_folder_is_not_listed_for_an_image(tmp_path, monkeypatch):
    recorder = Recorder(tmp_path, 1 << 20, Measurements())
    with monkeypatch.context() as patch:
        patch.delattr(Path, "glob")  # 30,000 files would take 0.1 s each time
        recorder.record(IMAGES[0], {"sha256": "0" * 64})
        recorder.close()
    assert {path.name for path in (tmp_path / ".unlabeled").iterdir()} == {f"{'0' * 64}.png", "answers.jsonl"}


def test_full_disk_does_not_stop_the_answers(tmp_path, monkeypatch, caplog):
    recorder = Recorder(tmp_path, 1 << 20, Measurements())
    (tmp_path / ".unlabeled").rmdir()
    (tmp_path / ".unlabeled").write_text("in the way")
    recorder.record(IMAGES[0], {"sha256": "0" * 64})
    recorder.close()
    assert caplog.text.count("no more images are recorded: ") == 1


def test_retraining_leaves_what_is_recorded(tmp_path):
    recorder = Recorder(tmp_path, 1 << 20, Measurements())
    recorder.record(IMAGES[0], {"sha256": "0" * 64})
    recorder.close()
    found = Landing(str(tmp_path)).look(NOW)
    assert (found.ready, found.waiting) == ([], [])
    assert [(left.path, left.reason) for left in found.left] == [(".unlabeled", "hidden")]
    (tmp_path / "robin").mkdir()
    (tmp_path / ".unlabeled" / f"{'0' * 64}.png").rename(tmp_path / "robin" / "labeled.png")
    assert [file.path for file in Landing(str(tmp_path)).look(NOW).ready] == ["robin/labeled.png"]
