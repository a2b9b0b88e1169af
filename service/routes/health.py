"""Whether the service lives, whether it can answer, and its metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.deps import ServiceDep
from service.errors import ApiError
from service.metrics import Metrics
from service.schemas import ErrorResponse, ReadyResponse

router = APIRouter(tags=["operation"])


@router.get("/healthz", summary="Live: the process answers")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", summary="Ready: model and gallery answer", responses={503: {"model": ErrorResponse}})
def readyz(service: ServiceDep) -> ReadyResponse:
    if not service.embedder.batcher.alive:
        raise ApiError(503, "not_ready", "the model worker has stopped; the service must be restarted")
    settings = service.settings
    return ReadyResponse(
        model=service.models.current.info,
        items=len(service.gallery),
        writable=service.writable,
        feedback=service.feedback is not None and service.trusted,
        limits={
            "text_length": settings.max_text_length,
            "top_k": settings.max_top_k,
            "upload_bytes": settings.max_upload_bytes,
            "inputs": settings.max_inputs,
        },
    )


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
def metrics(request: Request) -> Response:
    own: Metrics = request.app.state.metrics
    return Response(own.render(), media_type=CONTENT_TYPE_LATEST)
