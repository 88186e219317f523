"""Which images run at once, and what decoding may take."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from conftest import draw_image, encode_image
from inference.exports import write_export
from relearn.errors import ImageError, OutOfMemory
from relearn.images import decoding
from relearn.images.formats import FORMATS
from relearn.inference.exported import ExportedModel
from relearn.serving.decoding import _HEADER_ERRORS, estimate_bytes
from relearn.serving.measurements import QUIET_SECONDS, Measurements
from relearn.serving.settings import MAX_WAITING_LARGE_IMAGES
from relearn.serving.workers import WorkerPool

PNG = encode_image(draw_image(1), "PNG")


class SlowModel:
    """Answers the length of a file once `go` is set."""

    def __init__(self):
        self.go = threading.Event()
        self.n_started = 0

    def read_image(self, content, max_pixels):
        self.n_started += 1
        return np.array([len(content)])

    def predict_probabilities(self, images):
        assert self.go.wait(10)
        return np.stack(images)


@pytest.fixture
def workers():
    workers = WorkerPool(Measurements(), 1_000_000)
    yield workers
    workers.close()


def test_as_many_images_run_at_once_as_there_are_threads(monkeypatch):
    monkeypatch.setattr("relearn.serving.workers.count_threads", lambda: 3)
    workers, first, second = WorkerPool(Measurements(), 1_000_000), SlowModel(), SlowModel()

    async def ask():
        models = (first, second, first, second)
        tasks = [asyncio.create_task(workers.predict(model, b"x" * n)) for n, model in enumerate(models, start=1)]
        while first.n_started + second.n_started < 3:
            await asyncio.sleep(0.01)
        first.go.set()
        assert int((await tasks[0])[0]) == 1
        assert not tasks[1].done()
        second.go.set()
        return [int(row[0]) for row in await asyncio.gather(*tasks)]

    assert asyncio.run(ask()) == [1, 2, 3, 4]
    workers.close()


def test_bad_image_does_not_hurt_the_others(workers, tmp_path):
    write_export(tmp_path / "exported")
    model = ExportedModel(tmp_path / "exported")

    async def ask():
        tasks = [workers.predict(model, content) for content in (PNG, b"no image", PNG)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = asyncio.run(ask())
    assert isinstance(second, ImageError)
    assert first.tobytes() == third.tobytes() == model.predict_probabilities([model.read_image(PNG)])[0].tobytes()


def test_end_answers_what_waits():
    workers, model = WorkerPool(Measurements(), 1000), SlowModel()

    async def ask():
        tasks = [asyncio.create_task(workers.predict(model, b"x")) for _ in range(6)]
        while not model.n_started:
            await asyncio.sleep(0.01)
        closing = asyncio.create_task(asyncio.to_thread(workers.close))
        model.go.set()
        assert len(await asyncio.gather(*tasks, closing)) == 7

    asyncio.run(ask())
    assert model.n_started == 6


def test_small_images_do_not_wait_for_large_ones(workers):
    workers._max_pixels = 50_000_000
    model, small_go = SlowModel(), threading.Event()
    model.go.set()
    large = encode_image(Image.new("1", (6000, 4000)), "PNG")

    def read_image(content, max_pixels):
        assert content != large or small_go.wait(10)
        return np.array([len(content)])

    model.read_image = read_image

    async def ask():
        tasks = [asyncio.create_task(workers.predict(model, large)) for _ in range(MAX_WAITING_LARGE_IMAGES + 3)]
        await asyncio.sleep(0)  # they are all handed on before the small one
        async with asyncio.timeout(5):
            await workers.predict(model, PNG)
            while sum(task.done() for task in tasks) < 3:
                await asyncio.sleep(0.01)
        small_go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    replies = asyncio.run(ask())
    refused = [str(reply) for reply in replies if isinstance(reply, OutOfMemory)]
    assert refused == ["too many large images wait"] * 3
    assert sum(int(reply[0]) == len(large) for reply in replies if not isinstance(reply, OutOfMemory)) == 32


def test_no_damaged_header_is_an_error_of_the_estimate():
    assert {*decoding._DECODING_ERRORS} - {NotImplementedError} <= {*_HEADER_ERRORS}


@pytest.mark.parametrize("file_format", FORMATS)
def test_memory_is_known_from_the_header(file_format):
    content = encode_image(draw_image(1, (64, 64)), file_format)
    per_pixel = 16 if file_format == "WEBP" else 8
    assert estimate_bytes(content, 10_000_000) == 64 * 64 * per_pixel
    assert estimate_bytes(content, 100) == 100 * per_pixel
    assert estimate_bytes(content[:20], 100) <= 100 * per_pixel


def test_refusals_of_one_kind_are_logged_once_a_minute(monkeypatch, caplog):
    now = SimpleNamespace(monotonic=lambda: clock[0])
    clock = [1000.0]
    monkeypatch.setattr("relearn.serving.measurements.time", now)
    measurements = Measurements()
    for _ in range(5):
        measurements.refuse_image("damaged PNG file: \x1b[31mred")
    measurements.refuse_image("empty file")
    assert caplog.messages == [
        "refused: damaged PNG file: \\u001b[31mred",
        "refused: empty file",
    ]
    clock[0] += QUIET_SECONDS
    measurements.refuse_image("damaged GIF file: cut")
    assert caplog.messages[2] == "refused: damaged GIF file: cut (4 more since the last line of this kind)"
    assert b'relearn_refusals_total{reason="damaged"} 6.0' in measurements.describe()
