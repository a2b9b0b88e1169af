"""Errors as clients see them: always `{"error": {"code", "message", "request_id"}}`, mapped in one place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from cnclip.errors import CnclipError, ImageError, InputError
from service.batcher import QueueFullError, WorkerDiedError
from service.gallery import GalleryError, GalleryLocked
from service.journal import JournalError

logger = logging.getLogger(__name__)

T = TypeVar("T")
RETRY_AFTER_S = 1
BAD_JSON = "the body is not valid JSON"


class ApiError(HTTPException):
    """A refusal with a stable `code` for programs and a `message` for people."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, message, headers)
        self.code = code


def error_response(
    status: int, code: str, message: str, request_id: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The one shape of every error."""
    body = {"error": {"code": code, "message": message, "request_id": request_id}}
    return JSONResponse(body, status, headers=dict(headers or {}))


def validated(validate: Callable[[], T]) -> T:
    """What FastAPI does not parse for us fails in the same way as what it does: 422, naming the field."""
    try:
        return validate()
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False, include_context=False)) from None


def describe_validation(errors: list[Any]) -> str:
    """One line for the first problem, "top_k: Input should be …". The input itself is never echoed."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return BAD_JSON
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path", "header"))
    message = str(first["msg"]).removeprefix("Value error, ")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{place}: {message}{more}" if place else f"{message}{more}"


def _from_domain(error: Exception) -> ApiError:
    """What a client is told about an error of the model, the gallery or the batcher."""
    if isinstance(error, QueueFullError):
        headers = {"Retry-After": str(RETRY_AFTER_S)}
        return ApiError(429, "overloaded", "too many requests are waiting; try again in a moment", headers)
    if isinstance(error, WorkerDiedError):
        return ApiError(503, "not_ready", "the model worker has stopped; the service must be restarted")
    if isinstance(error, ImageError):
        return ApiError(422, "image_unreadable", str(error))
    if isinstance(error, GalleryLocked):
        return ApiError(409, "gallery_locked", "the gallery is being written by another process")
    if isinstance(error, JournalError):
        return ApiError(500, "journal_error", "feedback cannot be stored")
    if isinstance(error, GalleryError):
        return ApiError(500, "gallery_error", "the gallery cannot be read or written")
    if isinstance(error, InputError):
        return ApiError(422, "invalid_request", str(error))
    return ApiError(500, "internal_error", "internal error")


def to_response(error: Exception, request_id: str) -> JSONResponse:
    """The response for any exception; what was not expected is logged here and not told to the client."""
    if isinstance(error, RequestValidationError):
        return error_response(422, "invalid_request", describe_validation(list(error.errors())), request_id)
    http_error = isinstance(error, StarletteHTTPException)
    if http_error and isinstance(error.__cause__, ValueError | RecursionError):
        # What FastAPI makes of a body in broken UTF-8, nested too deeply, or with a number of 5,000 digits.
        return error_response(422, "invalid_request", BAD_JSON, request_id)
    if not isinstance(error, StarletteHTTPException):
        api_error = _from_domain(error)
        if api_error.status_code == 500:
            logger.error("request %s failed", request_id, exc_info=error)
        error = api_error
    code = error.code if isinstance(error, ApiError) else HTTPStatus(error.status_code).name.lower()
    return error_response(error.status_code, code, str(error.detail), request_id, error.headers)


def install_error_handlers(app: FastAPI) -> None:
    """Answer every expected exception in the one shape; `RequestContext` answers the rest."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        return to_response(error, request.state.request_id)

    for kind in (
        StarletteHTTPException,
        RequestValidationError,
        CnclipError,
        QueueFullError,
        WorkerDiedError,
    ):
        app.add_exception_handler(kind, handle)
