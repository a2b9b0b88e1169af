"""Search by text, by picture, by item."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, Request, UploadFile

from service.deps import ServiceDep
from service.errors import ApiError, validated
from service.schemas import (
    ErrorResponse,
    Finite,
    ItemIdText,
    Mode,
    SearchOptions,
    SearchRequest,
    SearchResponse,
    Text,
    parse_json,
)
from service.writer import too_large

router = APIRouter(prefix="/v1", tags=["search"], responses={"4XX": {"model": ErrorResponse}})


def _parse(text: str | None) -> Any:
    try:
        return None if text is None else parse_json(text)
    except ValueError as error:
        raise ApiError(422, "invalid_request", f"filter: {error}") from None


@router.post("/search", summary="Search by text, or by the picture of an item")
async def search(body: SearchRequest, request: Request, service: ServiceDep) -> SearchResponse:
    return await service.searcher.by_request(body, request.state.started)


@router.get("/search", summary="The same, for links")
async def search_by_link(
    request: Request,
    service: ServiceDep,
    q: Annotated[Text | None, Query(description="text")] = None,
    item_id: Annotated[ItemIdText | None, Query()] = None,
    k: Annotated[int, Query(ge=1, description="number of results")] = 10,
    mode: Mode = "vector",
    min_relevance: Finite | None = None,
    filter: Annotated[str | None, Query(description="JSON, as in POST /v1/search")] = None,
) -> SearchResponse:
    body = validated(
        lambda: SearchRequest(
            text=q, item_id=item_id, top_k=k, mode=mode, min_relevance=min_relevance, filter=_parse(filter)
        )
    )
    return await service.searcher.by_request(body, request.state.started)


@router.post("/search/image", summary="Search by a picture")
async def search_by_image(
    request: Request,
    service: ServiceDep,
    file: Annotated[UploadFile, File(description="JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF")],
    top_k: Annotated[int, Form(ge=1)] = 10,
    min_relevance: Annotated[Finite | None, Form()] = None,
    filter: Annotated[str | None, Form(description="JSON, as in POST /v1/search")] = None,
) -> SearchResponse:
    if file.size is not None and file.size > service.settings.max_upload_bytes:
        raise too_large(service.settings.max_upload_bytes)
    options = validated(
        lambda: SearchOptions(top_k=top_k, min_relevance=min_relevance, filter=_parse(filter))
    )
    name = "".join(c for c in file.filename or "" if c.isprintable())[:100] or "picture"
    return await service.searcher.by_image(file.file, name, options, request.state.started)
