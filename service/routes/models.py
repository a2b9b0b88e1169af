"""Versions of the model: which there are, which one answers, and how to change that."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, Response

from service.deps import Service, ServiceDep, require_write
from service.gallery import ModelRef
from service.model_schemas import ActivateRequest, ActivationInfo, ModelsResponse, ParentInfo, VersionInfo
from service.schemas import ErrorResponse, ModelInfo

router = APIRouter(prefix="/v1", tags=["models"], responses={"4XX": {"model": ErrorResponse}})

_BEGUN: dict[int | str, dict[str, Any]] = {
    202: {"model": ModelsResponse, "description": "It has begun; ask GET /v1/models how far it is"}
}


@router.get("/models", summary="The model in use, all versions, how far an activation is")
async def models(service: ServiceDep) -> ModelsResponse:
    return await _models(service)


@router.post(
    "/models:activate",
    dependencies=[Depends(require_write)],
    summary="Use another version, without a pause",
    responses=_BEGUN,
)
async def activate(body: ActivateRequest, response: Response, service: ServiceDep) -> ModelsResponse:
    if await asyncio.to_thread(service.models.activate, body.version, body.name):
        response.status_code = 202
    return await _models(service)


@router.post(
    "/models:rollback",
    status_code=202,
    dependencies=[Depends(require_write)],
    summary="Go back to the model that was in use before",
)
async def rollback(service: ServiceDep) -> ModelsResponse:
    await asyncio.to_thread(service.models.rollback)
    return await _models(service)


@router.post(
    "/models:cancel",
    status_code=202,
    dependencies=[Depends(require_write)],
    summary="Stop the activation that runs; the model in use stays",
)
async def cancel(service: ServiceDep) -> ModelsResponse:
    await asyncio.to_thread(service.models.cancel)
    return await _models(service)


async def _models(service: Service) -> ModelsResponse:
    return await asyncio.to_thread(_describe, service)


def _describe(service: Service) -> ModelsResponse:
    current, state = service.models.current.info, service.models.state()
    versions = [
        VersionInfo(
            name=one.name,
            version=one.version,
            fingerprint=one.fingerprint,
            parent=None
            if one.parent is None
            else ParentInfo(version=one.parent.version, fingerprint=one.parent.fingerprint),
            created=one.created,
            changed=one.changed,
            summary=dict(one.summary),
            active=one.fingerprint == current.fingerprint and one.label == current.name,
        )
        for one in service.models.versions.list()
    ]
    progress = service.models.progress
    activation = None
    if progress is not None:
        values = asdict(progress)
        activation = ActivationInfo(model=values.pop("label"), **values)
    return ModelsResponse(
        active=current,
        base=_info(state.base),
        previous=_info(state.history[-1]) if state.history else None,
        versions=versions,
        activation=activation,
    )


def _info(ref: ModelRef) -> ModelInfo:
    return ModelInfo(name=ref.label, fingerprint=ref.fingerprint)
