"""Items of the gallery: read, write, delete, their pictures."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.datastructures import UploadFile

from service.deps import ItemId, Service, ServiceDep, require_write
from service.errors import ApiError, validated
from service.gallery import Row
from service.schemas import BatchRequest, BatchResponse, ErrorResponse, ItemBody, ItemForm, ItemResponse
from service.searcher import item_response
from service.writer import decode_picture, too_large

router = APIRouter(prefix="/v1", tags=["items"], responses={"4XX": {"model": ErrorResponse}})

# Types a browser shows as a picture and nothing else; others are downloads.
_SAFE_MIMES = frozenset(f"image/{kind}" for kind in ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif"))
_FOR_EVER = "max-age=31536000, immutable"


async def _row(service: Service, item_id: str) -> Row:
    row = await service.searcher.row(item_id)
    if row is None:
        raise ApiError(404, "not_found", f"no item {item_id!r}")
    return row


@router.post("/items:batch", dependencies=[Depends(require_write)], summary="Add or replace many items")
async def put_items(body: BatchRequest, service: ServiceDep) -> BatchResponse:
    return await service.writer.put_many(body.items)


# Before the next route: that one's path would swallow the "/image".
@router.get("/items/{id:path}/image", summary="The picture of an item", response_class=FileResponse)
async def get_image(
    item_id: ItemId,
    request: Request,
    service: ServiceDep,
    v: Annotated[
        str | None, Query(description="hash of the picture: the answer may be cached for ever")
    ] = None,
) -> Response:
    row = await _row(service, item_id)
    path = service.gallery.image_path(row)
    if path is None or row.image_sha256 is None:
        raise ApiError(404, "no_image", f"item {item_id!r} has no picture")
    scope = "private" if service.settings.api_key else "public"
    current = v is not None and len(v) >= 16 and row.image_sha256.startswith(v)
    headers = {
        "ETag": f'"{row.image_sha256}"',
        "Cache-Control": f"{scope}, {_FOR_EVER if current else 'no-cache'}",
    }
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    _check_range(request, path.stat().st_size, headers["ETag"])
    mime = row.image_mime if row.image_mime in _SAFE_MIMES else "application/octet-stream"
    return FileResponse(path, media_type=mime, headers=headers)


def _check_range(request: Request, size: int, etag: str) -> None:
    """Leave FileResponse only ranges that it can answer: it tells of others in plain text.

    A range that is malformed, or of another picture, is ignored, as RFC 9110 (14.2) allows.

    Raises:
        ApiError: 416, there is nothing in the range.
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", request.headers.get("range", ""))
    first, last = match.groups() if match else ("", "")
    backwards = first != "" and last != "" and int(last) < int(first)
    if not (first or last) or backwards or request.headers.get("if-range", etag) != etag:
        request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
    elif (first and int(first) >= size) or (not first and int(last) == 0):
        whole = {"Content-Range": f"bytes */{size}"}
        raise ApiError(416, "range_not_satisfiable", f"the picture has {size:,} bytes", whole)


@router.get("/items/{id:path}", summary="One item")
async def get_item(item_id: ItemId, service: ServiceDep) -> ItemResponse:
    return item_response(await _row(service, item_id))


@router.delete(
    "/items/{id:path}", status_code=204, dependencies=[Depends(require_write)], summary="Delete an item"
)
async def delete_item(item_id: ItemId, service: ServiceDep) -> None:
    if not await service.writer.delete(item_id):
        raise ApiError(404, "not_found", f"no item {item_id!r}")


_FORM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "the picture"},
        "title": {"type": "string"},
        "attributes": {"type": "string", "description": "a JSON object"},
    },
}
_PUT_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": ItemBody.model_json_schema()},
        "multipart/form-data": {"schema": _FORM_SCHEMA},
    },
}


@router.put(
    "/items/{id:path}",
    dependencies=[Depends(require_write)],
    summary="Add or replace an item",
    responses={201: {"model": ItemResponse, "description": "The item is new"}},
    openapi_extra={"requestBody": _PUT_BODY},
)
async def put_item(
    item_id: ItemId, request: Request, response: Response, service: ServiceDep
) -> ItemResponse:
    limit = service.settings.max_upload_bytes
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        raw = await request.body()
        body = validated(lambda: ItemBody.model_validate_json(raw))
        picture = decode_picture(body.image, limit)
    elif content_type == "multipart/form-data":
        body, picture = await _read_form(request, limit)
    else:
        raise ApiError(415, "unsupported_media_type", "send application/json or multipart/form-data")
    row, is_new = await service.writer.put(item_id, body, picture)
    response.status_code = 201 if is_new else 200
    return item_response(row)


async def _read_form(request: Request, max_bytes: int) -> tuple[ItemBody, bytes | None]:
    async with request.form(max_files=1, max_fields=8) as form:
        fields = dict(form)
        file = fields.pop("file", None)
        picture = None
        if isinstance(file, UploadFile):
            if file.size is not None and file.size > max_bytes:
                raise too_large(max_bytes)
            picture = await file.read()
        elif file is not None:
            raise ApiError(422, "invalid_request", "file: must be an uploaded file")
    texts = validated(lambda: ItemForm.model_validate(fields))
    return ItemBody(title=texts.title, attributes=texts.attributes), picture
