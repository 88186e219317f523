"""What the server sends, as the OpenAPI document describes it."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from relearn.inference.exported import ExportRecord


class Reply(BaseModel, extra="forbid"):
    """What has these keys and no others."""


class ModelName(Reply):
    """The model that answered."""

    version: str | None = Field(description="The tag of its release, such as v3; null if it was never promoted.")
    sha256: str = Field(description="Of model.onnx.")


class ImageAnswer(Reply):
    """One image."""

    name: str = Field(description="The file's name as it was sent; empty if there was none.")
    sha256: str = Field(description="Of the file.")
    label: str = Field(description="The most probable class.")
    probabilities: dict[str, float] = Field(description="Of each class, rounded to 6 decimals.")


class ImageRefusal(Reply):
    """One file that cannot be read as an image."""

    name: str = Field(description="The file's name as it was sent; empty if there was none.")
    sha256: str = Field(description="Of the file.")
    error: str = Field(description="The reason.")


class Predictions(Reply):
    """The files of a request, in order, all by the same model."""

    model: ModelName
    images: list[ImageAnswer | ImageRefusal]


class ModelRecord(ExportRecord, frozen=True):
    """The content of model.json."""

    record_sha256: str = Field(description="Of the other keys.")


class Problem(Reply):
    """Why a request was refused."""

    detail: str


class Health(Reply):
    """The process runs."""

    status: Literal["ok", "failed"]


class Readiness(Reply):
    """A model answers."""

    status: Literal["ready", "failed"]
    model: ModelName
    reload: Literal["ok", "failed"] = Field(description="failed: a newer model could not be loaded; this one stays.")
    reason: str | None = Field(description="Why the newer model could not be loaded.")


# What a request to `/predict` may hold: FastAPI cannot know, because the body is read piece by piece. In this form
# openapi-generator and openapi-python-client make clients that send files. They would not if a second type stood beside
# it, a file had `contentMediaType` as OpenAPI 3.1 has it, or the form had fields of any name.
_FILES: dict[str, Any] = {"type": "array", "items": {"type": "string", "format": "binary"}}
_FORM = {"type": "object", "properties": {"image": _FILES}, "required": ["image"]}
PREDICT_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}
}
PREDICT_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "No form of files."},
    408: {"model": Problem, "description": "The request came too slowly."},
    413: {"model": Problem, "description": "Too many bytes or files."},
    415: {"model": Problem, "description": "A Content-Type that is not read."},
    422: {"model": Predictions, "description": "The only file cannot be read as an image."},
    500: {"model": Problem, "description": "The model failed."},
    503: {"model": Problem, "description": "Too much to do; try again after the seconds of Retry-After."},
}
ACCESS_PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The bearer token is missing or wrong."},
    403: {"model": Problem, "description": "The request comes from a page of another server, or names one."},
}
