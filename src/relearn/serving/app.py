"""The application: what each address answers."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPBearer

from relearn import __version__
from relearn.errors import ImageError, IntegrityError, OutOfMemory
from relearn.inference.answers import choose_label
from relearn.inference.classifier import hash_record
from relearn.serving.access import PREDICT, Guard
from relearn.serving.measurements import Measurements
from relearn.serving.pages import Page, read_page
from relearn.serving.recording import Recorder
from relearn.serving.reloading import Follower
from relearn.serving.replies import (
    ACCESS_PROBLEMS,
    PREDICT_BODY,
    PREDICT_PROBLEMS,
    Health,
    ModelRecord,
    Predictions,
    Readiness,
)
from relearn.serving.served import ServedModel
from relearn.serving.settings import MAX_REQUEST_IMAGES, Settings
from relearn.serving.uploads import RETRY, Upload, UploadReader
from relearn.serving.workers import WorkerPool
from relearn.storage.files import hash_bytes

RELOAD_SECONDS = 1.0
# Hashing more takes milliseconds, in which nobody else would be answered.
LARGE_BYTES = 1 << 20


class Service:
    """What the addresses share, for the life of the server.

    Parameters
    ----------
    folder
        Of the exported model, as `Follower` takes it.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.settings = settings
        self.measurements = Measurements()
        self.follower = Follower(folder, self.measurements)
        self.workers = WorkerPool(self.measurements, settings.max_pixels)
        self.uploads = UploadReader(settings)
        self.recorder = settings.record and Recorder(settings.record, settings.record_limit_bytes, self.measurements)

    @asynccontextmanager
    async def run(self, _app: FastAPI) -> AsyncGenerator[None, None]:
        """Follow the newest model; at the end answer and write what waits."""
        self._following = asyncio.create_task(self._follow())
        yield
        self._following.cancel()
        await asyncio.to_thread(self.workers.close)
        if self.recorder:
            await asyncio.to_thread(self.recorder.close)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            await asyncio.to_thread(self.follower.check)

    @property
    def is_following(self) -> bool:
        """Return whether the next model is still followed."""
        return not self._following.done()

    async def predict(self, request: Request) -> Response:
        """Answer the files of a request, all by the model that is in use when they have arrived."""
        try:
            async with self.uploads.read(request) as uploads:
                with self.workers.hold_places(min(len(uploads), MAX_REQUEST_IMAGES)) as is_free:
                    if not is_free:
                        raise HTTPException(503, "too many images wait; try again", RETRY)
                    model = self.follower.model
                    images = await self._answer_all(request, model, uploads)
            self.measurements.request_images.observe(len(uploads))
        except (MemoryError, OutOfMemory):
            raise HTTPException(503, "there is not enough memory now; try again", RETRY) from None
        except IntegrityError as error:
            self.measurements.refuse("model failed", str(error))
            raise HTTPException(500, "the model failed; the log of the server says why") from None
        is_refused = len(images) == 1 and "error" in images[0]
        return JSONResponse({"model": name_model(model), "images": images}, 422 if is_refused else 200)

    async def _answer_all(self, request: Request, model: ServedModel, uploads: list[Upload]) -> list[dict[str, Any]]:
        """Answer each file, some at a time; stop if the client leaves."""
        async with _stop_without_client(request):
            if len(uploads) == 1:
                return [await self._answer(model, uploads[0])]
            return await self._answer_some_at_a_time(model, uploads)

    async def _answer_some_at_a_time(self, model: ServedModel, uploads: list[Upload]) -> list[dict[str, Any]]:
        places = asyncio.Semaphore(MAX_REQUEST_IMAGES)

        async def _answer_in_turn(upload: Upload) -> dict[str, Any]:
            async with places:
                return await self._answer(model, upload)

        tasks = [asyncio.create_task(_answer_in_turn(upload)) for upload in uploads]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _answer(self, model: ServedModel, upload: Upload) -> dict[str, Any]:
        facts = {"name": upload.name, "sha256": await _hash_content(upload.content)}
        try:
            row = await self.workers.predict(model, upload.content)
        except OutOfMemory:
            raise
        except ImageError as error:
            self.measurements.refuse_image(str(error))
            return {**facts, "error": str(error)}
        self.measurements.images.inc()
        probabilities = {name: round(float(p), 6) for name, p in zip(model.classes, row, strict=True)}
        answer = {**facts, "label": choose_label(model.classes, row), "probabilities": probabilities}
        if self.recorder:
            self.recorder.record(upload.content, {**answer, "model": name_model(model)})
        return answer


@asynccontextmanager
async def _stop_without_client(request: Request) -> AsyncGenerator[None, None]:
    """Cancel the block once the client has left."""
    try:
        async with asyncio.timeout(None) as limit:
            watching = asyncio.create_task(_end_without_client(request, limit))
            try:
                yield
            finally:
                watching.cancel()
    except TimeoutError:
        if not limit.expired():
            raise
        raise HTTPException(400, "wanted a client that reads the answer, got one that left") from None


async def _end_without_client(request: Request, limit: asyncio.Timeout) -> None:
    """End what has a time limit once the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    limit.reschedule(0)


async def _hash_content(content: bytes) -> str:
    if len(content) < LARGE_BYTES:
        return hash_bytes(content)
    return await asyncio.to_thread(hash_bytes, content)


def name_model(model: ServedModel) -> dict[str, str | None]:
    """Return the version and the hash of a model."""
    return {"version": model.record.version, "sha256": model.record.model_sha256}


def make_app(folder: Path, settings: Settings) -> FastAPI:
    """Return the application that answers by the model of a folder; its state holds the `service`.

    Raises
    ------
    IntegrityError
        There is no model, or it is damaged.
    """
    service = Service(folder, settings)

    app = FastAPI(
        title="relearn",
        version=__version__,
        description="Predicts the classes of images.",
        lifespan=service.run,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name.strip("_"),
    )
    app.state.service = service
    # `_route_model` describes it, but FastAPI's own route would look for parameters first.
    app.add_route(PREDICT, service.predict, methods=["POST"], include_in_schema=False)
    app.include_router(_route_pages())
    app.include_router(_route_states(service), responses={403: ACCESS_PROBLEMS[403]})
    needs_token = [Depends(HTTPBearer(auto_error=False, description="RELEARN_TOKEN"))] if settings.token else []
    app.include_router(_route_model(service), dependencies=needs_token, responses=ACCESS_PROBLEMS)
    app.add_middleware(Guard, settings=settings, measurements=service.measurements)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    return app


def _route_pages() -> APIRouter:
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

    def _add(path: str, page: Page) -> None:
        @router.get(path)
        async def _show() -> HTMLResponse:
            return HTMLResponse(page.content, headers={"Content-Security-Policy": page.policy})

    _add("/", read_page("page.html"))
    _add("/docs", read_page("docs.html"))
    return router


def _route_states(service: Service) -> APIRouter:
    router = APIRouter(tags=["state"])

    @router.get("/healthz", summary="Does the process run?", responses={503: {"model": Health}}, response_model=Health)
    async def _check_health() -> Response:
        is_following = service.is_following
        return JSONResponse({"status": "ok" if is_following else "failed"}, 200 if is_following else 503)

    @router.get(
        "/readyz", summary="Does a model answer?", responses={503: {"model": Readiness}}, response_model=Readiness
    )
    async def _check_readiness() -> Response:
        is_following, failure = service.is_following, service.follower.failure
        content = {
            "status": "ready" if is_following else "failed",
            "model": name_model(service.follower.model),
            "reload": "failed" if failure else "ok",
            "reason": failure,
        }
        return JSONResponse(content, 200 if is_following else 503)

    return router


def _route_model(service: Service) -> APIRouter:
    router = APIRouter(tags=["model"])

    router.post(
        PREDICT,
        summary="Predict the classes of one or many images",
        description="The fields of the form may have any names. One file may also be the body itself, of a type such "
        "as image/jpeg or application/octet-stream. All files of a request are answered by the same model.",
        response_model=Predictions,
        responses=PREDICT_PROBLEMS,
        openapi_extra=PREDICT_BODY,
    )(service.predict)

    @router.get("/model", summary="What model answers", response_model=ModelRecord)
    async def _show_model() -> Response:
        record = service.follower.model.record.model_dump()
        return JSONResponse({"record_sha256": hash_record(record), **record})

    figures = {"content": {"text/plain": {"schema": {"type": "string"}}}}

    @router.get("/metrics", summary="Figures for Prometheus", response_class=Response, responses={200: figures})
    async def _show_metrics() -> Response:
        return Response(service.measurements.describe(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
