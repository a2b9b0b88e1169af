"""Vectors in the shape of OpenAI's embeddings API, so that its clients work."""

from __future__ import annotations

import asyncio
import base64
import math

from fastapi import APIRouter

from cnclip.text import token_count
from service.batcher import Vectors
from service.deps import Service, ServiceDep
from service.errors import ApiError
from service.generation import Generation
from service.schemas import Embedding, EmbeddingsRequest, EmbeddingsResponse, ErrorResponse, Usage
from service.searcher import check_text, within
from service.writer import decode_picture

router = APIRouter(prefix="/v1", tags=["embeddings"], responses={"4XX": {"model": ErrorResponse}})

_IMAGE_PREFIX = "data:image/"


@router.post("/embeddings", summary="Vectors of texts and of pictures (data URIs)")
async def embed(body: EmbeddingsRequest, service: ServiceDep) -> EmbeddingsResponse:
    return await service.models.run(lambda model: _answer(body, model, service))


async def _answer(body: EmbeddingsRequest, model: Generation, service: Service) -> EmbeddingsResponse:
    inputs = [body.input] if isinstance(body.input, str) else body.input
    _check(body, inputs, model, service)
    deadline_s = service.settings.deadline_s * math.ceil(len(inputs) / service.settings.max_image_batch)
    vectors = await within(deadline_s, _vectors(inputs, model, service))
    data = [
        Embedding(index=index, embedding=_encode(vector, body.encoding_format))
        for index, vector in enumerate(vectors)
    ]
    texts = (text for text in inputs if not text.startswith(_IMAGE_PREFIX))
    tokens = sum(min(token_count(text), model.encoder.context_length) for text in texts)
    usage = Usage(prompt_tokens=tokens, total_tokens=tokens)
    return EmbeddingsResponse(data=data, model=model.label, usage=usage)


def _check(body: EmbeddingsRequest, inputs: list[str], model: Generation, service: Service) -> None:
    encoder, settings = model.encoder, service.settings
    if body.model is not None and body.model not in model.names:
        raise ApiError(404, "model_not_found", f"this server has one model, {model.label!r}")
    if body.dimensions not in (None, encoder.dim):
        raise ApiError(422, "invalid_request", f"dimensions: this model has {encoder.dim}")
    if len(inputs) > settings.max_inputs:
        raise ApiError(422, "invalid_request", f"input: at most {settings.max_inputs}")
    for text in inputs:
        if not text.startswith(_IMAGE_PREFIX):
            check_text(text, settings)


async def _vectors(inputs: list[str], model: Generation, service: Service) -> list[Vectors]:
    """In the order of the inputs; pictures a few at a time, so that other requests get their turn."""
    vectors: dict[int, Vectors] = {}
    texts = [(index, text) for index, text in enumerate(inputs) if not text.startswith(_IMAGE_PREFIX)]
    encoded = await model.embedder.texts([text for _, text in texts])
    vectors.update({index: one.vector for (index, _), one in zip(texts, encoded, strict=True)})
    images = [index for index in range(len(inputs)) if index not in vectors]
    step = service.settings.max_image_batch
    for first in range(0, len(images), step):
        part = images[first : first + step]
        pictures = [decode_picture(inputs[index], service.settings.max_upload_bytes) or b"" for index in part]
        named = zip(pictures, part, strict=True)
        done = await asyncio.gather(*(model.embedder.image(data, f"input {index}") for data, index in named))
        vectors.update({index: one.vector for index, one in zip(part, done, strict=True)})
    return [vectors[index] for index in range(len(inputs))]


def _encode(vector: Vectors, encoding: str) -> list[float] | str:
    if encoding == "float":
        return [float(value) for value in vector]
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
