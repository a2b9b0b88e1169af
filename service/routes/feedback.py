"""What users say about results, for the learner."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from service.deps import ServiceDep, require_trust
from service.errors import ApiError
from service.model_schemas import FeedbackRequest, FeedbackResponse
from service.schemas import ErrorResponse
from service.searcher import check_text

router = APIRouter(prefix="/v1", tags=["feedback"], responses={"4XX": {"model": ErrorResponse}})


@router.post(
    "/feedback",
    status_code=201,
    dependencies=[Depends(require_trust)],
    summary="Say whether an item is right for a query",
)
async def feedback(body: FeedbackRequest, service: ServiceDep) -> FeedbackResponse:
    check_text(body.query, service.settings)
    if service.feedback is None:
        raise ApiError(
            403,
            "read_only",
            "this gallery is served read-only; feedback needs --journal FILE (CNCLIP_JOURNAL)",
        )
    return await service.feedback.take(body)
