"""Which images run together, and what decoding may take."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from conftest import draw_image, encode_image
from inference.exports import write_export
from relearn.errors import ImageError
from relearn.images import decoding
from relearn.images.formats import FORMATS
from relearn.inference.exported import ExportedModel
from relearn.serving.batching import Batcher
from relearn.serving.decoding import _HEADER_ERRORS, estimate_bytes
from relearn.serving.measurements import QUIET_SECONDS, Measurements

PNG = encode_image(draw_image(1), "PNG")


class SlowModel:
    """Notes its batches; the first one waits for `go`."""

    batch_size = 4

    def __init__(self):
        self.go = threading.Event()
        self.batches = []

    def read_image(self, content, max_pixels):
        return np.array([len(content)])

    def predict_probabilities(self, images):
        self.batches.append(len(images))
        assert self.go.wait(10)
        return np.stack(images)


@pytest.fixture
def batcher():
    batcher = Batcher(Measurements(), 1_000_000)
    yield batcher
    batcher.close()


def test_what_arrives_while_the_model_is_busy_runs_together(batcher):
    model = SlowModel()

    async def ask():
        first = asyncio.create_task(batcher.predict(model, b"x"))
        while not model.batches:
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(batcher.predict(model, b"x" * n)) for n in range(2, 8)]
        while batcher._queue.qsize() < 6:
            await asyncio.sleep(0.01)
        model.go.set()
        return [int(row[0]) for row in await asyncio.gather(first, *others)]

    assert asyncio.run(ask()) == list(range(1, 8))
    assert model.batches == [1, 4, 2]


def test_two_models_never_share_a_batch(batcher):
    first, second = SlowModel(), SlowModel()
    second.go.set()

    async def ask():
        tasks = [asyncio.create_task(batcher.predict(first, b"x"))]
        while not first.batches:
            await asyncio.sleep(0.01)
        for number, model in enumerate((first, second, second, first), start=1):
            tasks.append(asyncio.create_task(batcher.predict(model, b"xy")))
            while batcher._queue.qsize() < number:
                await asyncio.sleep(0.01)
        first.go.set()
        return [int(row[0]) for row in await asyncio.gather(*tasks)]

    assert asyncio.run(ask()) == [1, 2, 2, 2, 2]
    assert (first.batches, second.batches) == ([1, 1, 1], [2])


def test_bad_image_does_not_hurt_the_others(batcher, tmp_path):
    write_export(tmp_path / "exported")
    model = ExportedModel(tmp_path / "exported")

    async def ask():
        tasks = [batcher.predict(model, content) for content in (PNG, b"no image", PNG)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = asyncio.run(ask())
    assert isinstance(second, ImageError)
    assert first.tobytes() == third.tobytes() == model.predict_probabilities([model.read_image(PNG)])[0].tobytes()


def test_end_answers_what_waits():
    batcher, model = Batcher(Measurements(), 1000), SlowModel()

    async def ask():
        tasks = [asyncio.create_task(batcher.predict(model, b"x")) for _ in range(6)]
        while batcher._queue.qsize() + sum(model.batches) < 6:
            await asyncio.sleep(0.01)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        model.go.set()
        await asyncio.gather(*tasks, closing)

    asyncio.run(ask())
    assert sum(model.batches) == 6
    assert not batcher.is_alive


def test_small_images_do_not_wait_for_large_ones(batcher):
    batcher._max_pixels = 50_000_000
    model, small_go = SlowModel(), threading.Event()
    model.go.set()
    large = encode_image(Image.new("1", (6000, 4000)), "PNG")

    def read_image(content, max_pixels):
        assert content != large or small_go.wait(10)
        return np.array([len(content)])

    model.read_image = read_image

    async def ask():
        tasks = [asyncio.create_task(batcher.predict(model, large)) for _ in range(20)]
        await asyncio.sleep(0)  # they are all handed on before the small one
        async with asyncio.timeout(5):
            await batcher.predict(model, PNG)
        assert not any(task.done() for task in tasks)
        small_go.set()
        return await asyncio.gather(*tasks)

    assert len(asyncio.run(ask())) == 20


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
