"""What each address answers."""

import hashlib
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from fastapi.openapi.models import OpenAPI
from fastapi.routing import APIRoute
from starlette.routing import Match

from conftest import draw_image, encode_image, wait_for
from inference.exports import write_export
from relearn.errors import OutOfMemory
from relearn.inference.exported import ExportedModel, read_export_record
from relearn.serving import replies
from relearn.serving.app import make_app
from relearn.serving.served import ServedModel
from relearn.serving.settings import MAX_REQUEST_IMAGES, MAX_WAITING_IMAGES, Settings
from serving.conftest import run_server

PNG = encode_image(draw_image(1, (40, 30)), "PNG")
JPEG = encode_image(draw_image(2, (40, 30)), "JPEG")
TOKEN = {"Authorization": "Bearer secret"}


def check_schema(client, path, method, response):
    """Check a reply against the OpenAPI document of the server that sent it."""
    api = client.get("/openapi.json").json()
    described = api["paths"][path][method]["responses"][str(response.status_code)]
    name = described["content"]["application/json"]["schema"]["$ref"].removeprefix("#/components/schemas/")
    getattr(replies, name).model_validate_json(response.content, strict=True)
    return response.json()


def test_images_of_a_form_are_answered_as_predict_answers_them(client, model_folder, tmp_path):
    contents = {f"{seed}.png": encode_image(draw_image(seed, (50, 20)), "PNG") for seed in range(9)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = [(f"field{n % 2}", (name, content)) for n, (name, content) in enumerate(contents.items())]
    reply = check_schema(client, "/predict", "post", client.post("/predict", files=files))
    record = read_export_record(model_folder)
    assert reply["model"] == {"version": "v1", "sha256": record.model_sha256}
    wanted = ExportedModel(model_folder).predict_files([str(tmp_path / name) for name in contents])
    for image, answer, (name, content) in zip(reply["images"], wanted.answers, contents.items(), strict=True):
        assert image == {
            "name": name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "label": answer.label,
            "probabilities": dict(zip(wanted.classes, answer.probabilities, strict=True)),
        }


@pytest.mark.parametrize("kind", ["image/jpeg", "application/octet-stream", "IMAGE/X-what; charset=x"])
def test_one_image_may_be_the_body(client, kind):
    reply = client.post("/predict", content=JPEG, headers={"Content-Type": kind})
    assert reply.status_code == 200
    (image,) = reply.json()["images"]
    assert image["name"] == ""
    assert image["sha256"] == hashlib.sha256(JPEG).hexdigest()


def test_file_that_cannot_be_read_has_the_reason_beside_the_answers_of_the_others(client):
    files = [("x", ("a.png", PNG)), ("x", ("b.jpg", b"%PDF-1.7")), ("x", ("c.jpg", JPEG[:200]))]
    response = client.post("/predict", files=files)
    assert response.status_code == 200
    first, second, third = check_schema(client, "/predict", "post", response)["images"]
    assert "label" in first
    assert second["error"].endswith("a PDF; save its pages as PNG")
    assert third["error"].startswith("damaged JPEG file: ")


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_only_file_that_cannot_be_read_is_422(client, content):
    response = client.post("/predict", files={"x": ("a.png", content)})
    assert response.status_code == 422
    assert check_schema(client, "/predict", "post", response)["images"][0]["error"]
    assert client.post("/predict", content=content, headers={"Content-Type": "image/png"}).status_code == 422


@pytest.mark.parametrize(
    ("headers", "content", "status", "detail"),
    [
        ({}, b"x", 415, "wanted multipart/form-data, image/"),
        ({"Content-Type": "text/plain"}, b"x", 415, "got text/plain"),
        ({"Content-Type": "multipart/form-data"}, b"x", 400, "Missing boundary"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--y\r\n", 400, "got Invalid multipart"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x--\r\n", 400, "at least one file"),
        (
            {"Content-Type": "multipart/form-data; boundary=x"},
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\ntext\r\n--x--\r\n',
            400,
            "at least one file",
        ),
    ],
)
def test_request_that_is_none_is_refused_in_words(client, headers, content, status, detail):
    response = client.post("/predict", content=content, headers=headers)
    assert response.status_code == status
    assert detail in check_schema(client, "/predict", "post", response)["detail"]


def test_limits_of_bytes_files_and_pixels(model_folder):
    limits = {"max_bytes": 4000, "max_files": 2, "max_pixels": 1000}
    with run_server(model_folder, **limits) as (address, _), httpx.Client(base_url=address) as client:
        large = client.post("/predict", files={"x": bytes(5000)})
        assert (large.status_code, large.json()["detail"][:29]) == (413, "wanted at most 4,000 bytes in")
        chunks = (bytes(1000) for _ in range(9))
        chunked = client.post("/predict", content=chunks, headers={"Content-Type": "image/png"})
        assert chunked.status_code == 413
        many = client.post("/predict", files=[("x", ("a", b"x"))] * 3)
        assert (many.status_code, many.json()["detail"][:23]) == (413, "wanted at most 2 files ")
        wide = client.post("/predict", files={"x": PNG})
        assert wide.status_code == 422
        assert "too large: 40 x 30 px, at most 1,000" in wide.json()["images"][0]["error"]
        assert client.post("/predict", files={"x": encode_image(draw_image(1), "PNG")}).status_code == 200


def test_too_many_waiting_images_and_bytes_are_refused_for_a_while(model_folder):
    with run_server(model_folder, max_bytes=10_000) as (address, service):
        with service.workers.hold_places(MAX_WAITING_IMAGES):
            full = httpx.post(f"{address}/predict", files={"x": PNG})
        assert (full.status_code, full.headers["Retry-After"]) == (503, "1")
        service.uploads._n_free_bytes -= 40_000
        full = httpx.post(f"{address}/predict", files={"x": PNG})
        assert (full.status_code, full.headers["Retry-After"]) == (503, "1")
        service.uploads._n_free_bytes += 40_000
        assert httpx.post(f"{address}/predict", files={"x": PNG}).status_code == 200
        assert service.uploads._n_free_bytes == 40_000


def test_model_and_states(client, model_folder):
    record = check_schema(client, "/model", "get", client.get("/model"))
    assert record == json.loads((model_folder / "model.json").read_text())
    assert check_schema(client, "/healthz", "get", client.get("/healthz")) == {"status": "ok"}
    ready = check_schema(client, "/readyz", "get", client.get("/readyz"))
    assert ready["status"] == "ready"
    assert (ready["reload"], ready["reason"]) == ("ok", None)
    assert client.get("/nothing").status_code == 404
    assert client.get("/../../etc/passwd").status_code == 404


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/healthz", "/readyz", "/model", "/nothing"])
def test_head_is_answered_as_get_without_the_body(client, path):
    site = {"Sec-Fetch-Site": "cross-site"}
    found, whole = client.head(path, headers=site), client.get(path, headers=site)
    assert (found.status_code, found.content) == (whole.status_code, b"")
    assert found.headers["Content-Length"] == whole.headers["Content-Length"] == str(len(whole.content))


def test_health_fails_if_the_model_is_followed_no_longer(model_folder):
    with run_server(model_folder) as (address, service), httpx.Client(base_url=address) as client:
        service._following.get_loop().call_soon_threadsafe(service._following.cancel)
        wait_for(service._following.done, 5)
        health = client.get("/healthz")
        assert (health.status_code, check_schema(client, "/healthz", "get", health)) == (503, {"status": "failed"})
        ready = client.get("/readyz")
        assert (ready.status_code, check_schema(client, "/readyz", "get", ready)["status"]) == (503, "failed")


def test_openapi_document_is_valid_and_names_every_address(client):
    api = client.get("/openapi.json").json()
    OpenAPI.model_validate(api)
    assert list(api["paths"]) == ["/healthz", "/readyz", "/predict", "/model", "/metrics"]
    names = [operation["operationId"] for path in api["paths"].values() for operation in path.values()]
    assert names == ["check_health", "check_readiness", "predict", "show_model", "show_metrics"]
    assert "image/jpeg" in api["paths"]["/predict"]["post"]["description"]
    form = api["paths"]["/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["image"]["items"]["format"] == "binary"  # generated clients send files only then
    assert api["paths"]["/metrics"]["get"]["responses"]["200"]["content"]["text/plain"]["schema"]["type"] == "string"
    assert all("403" in operation["responses"] for path in api["paths"].values() for operation in path.values())
    assert set(api["paths"]["/predict"]["post"]["responses"]) == {
        *("200", "400", "401", "403", "408", "413", "415", "422", "500", "503")
    }


def test_images_go_past_the_route_that_describes_them(model_folder):
    app = make_app(model_folder, Settings())
    scope = {"type": "http", "method": "POST", "path": "/predict", "root_path": ""}
    first = next(route for route in app.routes if route.matches(scope)[0] == Match.FULL)
    assert not isinstance(first, APIRoute)


def test_metrics_count_what_was_asked(model_folder):
    with run_server(model_folder) as (address, _):
        httpx.post(f"{address}/predict", files=[("x", PNG), ("x", JPEG), ("x", b"%PDF-")])
        httpx.get(f"{address}/not-there")
        lines = httpx.get(f"{address}/metrics").text.splitlines()
    assert 'relearn_requests_total{path="/predict",status="200"} 1.0' in lines
    assert 'relearn_requests_total{path="other",status="404"} 1.0' in lines
    assert "relearn_images_total 2.0" in lines
    assert 'relearn_refusals_total{reason="not an image"} 1.0' in lines
    assert "relearn_request_images_sum 3.0" in lines
    assert "relearn_predict_seconds_count 1.0" in lines
    assert "relearn_reload_failed 0.0" in lines
    sha256 = read_export_record(model_folder).model_sha256
    assert f'relearn_model_info{{sha256="{sha256}",version="v1"}} 1.0' in lines


def test_token_is_asked_for_but_by_pages_and_states(model_folder):
    with run_server(model_folder, token="secret") as (address, _), httpx.Client(base_url=address) as client:
        for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz"):
            assert client.get(path).status_code == 200
        for path in ("/model", "/metrics"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers=TOKEN).status_code == 200
        wrong = ("", "Bearer", "Bearer secre", "Bearer secret2", "Basic secret", "Bearer s\xe9cret")
        for given in wrong:
            response = client.post("/predict", files={"x": PNG}, headers={"Authorization": given.encode("latin-1")})
            assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert "secret" not in response.text
        assert client.post("/predict", files={"x": PNG}, headers=TOKEN).status_code == 200
        api = client.get("/openapi.json").json()
        assert api["paths"]["/predict"]["post"]["security"]
        assert "security" not in api["paths"]["/readyz"]["get"]


def test_pages_of_other_servers_may_not_ask_unless_they_are_named(model_folder):
    origin = "https://example.org"
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": origin}
    with run_server(model_folder) as (address, _):
        assert httpx.post(f"{address}/predict", files={"x": PNG}, headers=foreign).status_code == 403
        own = {"Sec-Fetch-Site": "same-origin", "Origin": address}
        response = httpx.post(f"{address}/predict", files={"x": PNG}, headers=own)
        assert response.status_code == 200
        assert "access-control-allow-origin" not in response.headers
    with run_server(model_folder, origins=(origin,)) as (address, _):
        response = httpx.post(f"{address}/predict", files={"x": PNG}, headers=foreign)
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, origin)
        other = {**foreign, "Origin": "https://example.com"}
        assert httpx.post(f"{address}/predict", files={"x": PNG}, headers=other).status_code == 403
        ask = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        assert httpx.options(f"{address}/predict", headers=ask).status_code == 200


@pytest.mark.parametrize("origin", ["https://example.org", "null", "http://127.0.0.1:1"])
def test_browsers_without_the_site_name_the_origin(address, origin):
    headers = {"Origin": origin}
    assert httpx.post(f"{address}/predict", files={"x": PNG}, headers=headers).status_code == 403
    assert httpx.post(f"{address}/predict", files={"x": PNG}, headers={"Origin": address}).status_code == 200


def test_names_that_may_lead_here_from_elsewhere_are_refused(address, model_folder):
    for host in ("localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1", "[::1]:8000", "127.8.0.1:9"):
        assert httpx.get(f"{address}/model", headers={"Host": host}).status_code == 200, host
    for host in ("example.org", "example.org:8000", "localhost.example.org", "127.0.0.1.example.org", "10.0.0.1", "[]"):
        response = httpx.get(f"{address}/model", headers={"Host": host})
        assert (response.status_code, response.json()["detail"][:16]) == (403, "wanted localhost"), host
    host = {"Host": "example.org"}
    with run_server(model_folder, origins=("https://example.org",)) as (named, _):
        assert httpx.get(f"{named}/model", headers=host).status_code == 200
        assert httpx.get(f"{named}/model", headers={"Host": "example.com"}).status_code == 403
    with run_server(model_folder, token="secret") as (guarded, _):
        assert httpx.get(f"{guarded}/model", headers={**host, **TOKEN}).status_code == 200


def test_every_answer_tells_a_browser_what_it_is(client):
    for path in ("/", "/docs", "/model", "/nothing"):
        headers = client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert len(headers.get_list("Content-Security-Policy")) == 1  # a browser would keep to all of them
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"


def test_model_that_fails_is_500_and_the_next_request_is_answered(model_folder, monkeypatch, caplog):
    with run_server(model_folder) as (address, service):
        monkeypatch.setattr(service.follower.model, "classes", ["only one"])
        response = httpx.post(f"{address}/predict", files={"x": PNG})
        assert response.status_code == 500
        assert response.json() == {"detail": "the model failed; the log of the server says why"}
        assert "wanted probabilities of shape (1, 1)" in caplog.text
        monkeypatch.undo()
        assert httpx.post(f"{address}/predict", files={"x": PNG}).status_code == 200


@pytest.mark.parametrize("error", [MemoryError(), OutOfMemory("too large: there is not enough memory to decode it")])
@pytest.mark.parametrize("method", ["read_image", "predict_one"])
def test_lack_of_memory_is_503(client, monkeypatch, error, method):
    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ServedModel, method, fail)
        response = client.post("/predict", files=[("x", PNG), ("x", JPEG)])
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert response.json() == {"detail": "there is not enough memory now; try again"}
    assert client.post("/predict", files={"x": PNG}).status_code == 200


def test_request_with_one_file_ends_when_its_client_leaves(model_folder, monkeypatch):
    go, decode = threading.Event(), ExportedModel.read_image

    def wait(*arguments):
        assert go.wait(10)
        return decode(*arguments)

    monkeypatch.setattr(ExportedModel, "read_image", wait)
    with run_server(model_folder) as (address, service):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/predict", files={"x": PNG}, timeout=httpx.Timeout(5, read=0.1))
        wait_for(lambda: service.workers._n_waiting == 0, 5)
        counted = b'relearn_requests_total{path="/predict",status="400"} 1.0'
        assert wait_for(lambda: counted in service.measurements.describe(), 5)
        go.set()


@pytest.mark.parametrize("n_files", [1, 2])
def test_other_lack_of_time_is_not_taken_for_a_client_that_left(model_folder, monkeypatch, caplog, n_files):
    def fail(*_):
        raise TimeoutError("a disk that is slow")

    monkeypatch.setattr(ExportedModel, "read_image", fail)
    with run_server(model_folder) as (address, _):
        assert httpx.post(f"{address}/predict", files=[("x", PNG)] * n_files).status_code == 500
    assert "a disk that is slow" in caplog.text


def test_client_that_leaves_is_worked_for_no_longer(model_folder, monkeypatch):
    n_decoded, decode = [], ExportedModel.read_image

    def note(*arguments):
        n_decoded.append(1)
        time.sleep(0.02)
        return decode(*arguments)

    monkeypatch.setattr(ExportedModel, "read_image", note)
    with run_server(model_folder) as (address, service):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/predict", files=[("x", PNG)] * 60, timeout=httpx.Timeout(5, read=0.1))
        wait_for(lambda: service.workers._n_waiting == 0, 5)
        assert 0 < len(n_decoded) < 50
        assert b"relearn_waiting_images 0.0" in service.measurements.describe()


def test_one_request_leaves_places_to_the_others(model_folder, monkeypatch):
    go, decode = threading.Event(), ExportedModel.read_image

    def wait(model, content, max_pixels):
        assert go.wait(10)
        return decode(model, content, max_pixels)

    monkeypatch.setattr(ExportedModel, "read_image", wait)
    with run_server(model_folder) as (address, service), ThreadPoolExecutor(1) as executor:
        many = executor.submit(httpx.post, f"{address}/predict", files=[("x", PNG)] * 64, timeout=30)
        wait_for(lambda: service.workers._n_waiting, 5)
        assert service.workers._n_waiting == MAX_REQUEST_IMAGES <= MAX_WAITING_IMAGES / 4
        go.set()
        assert len(many.result().json()["images"]) == 64


def test_many_classes_keep_their_order(tmp_path):
    classes = [f"class {number}" for number in (3, 1, 2, 10)]
    write_export(tmp_path / "exported", classes)
    with run_server(tmp_path / "exported") as (address, _):
        (image,) = httpx.post(f"{address}/predict", files={"x": PNG}).json()["images"]
    assert list(image["probabilities"]) == classes
    assert image["label"] == classes[int(np.argmax(list(image["probabilities"].values())))]


def test_server_needs_no_package_of_the_pipeline():
    script = (
        "import relearn.cli, relearn.serving.running, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    heavy = {
        "dvc",
        "great_expectations",
        "h5py",
        "jinja2",
        "keras",
        "pandas",
        "prefect",
        "scipy",
        "skl2onnx",
        "sklearn",
    }
    assert not {*heavy, "fsspec", "tensorflow", "threadpoolctl"} & set(result.stdout.split())
