"""Requests and responses of the REST API. Limits that can be configured are checked in `searcher.py` and
`writer.py`; those that never change are here."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)

from cnclip.errors import InputError
from service.gallery.filters import compile_filter
from service.gallery.types import check_attributes

Mode = Literal["vector", "keyword", "hybrid"]

# What the API's documentation says of attributes and filters. They are checked by the gallery's own rules
# (`_check_attributes`, `_check_filter`): a union would report every type that did not fit, and take too large
# an integer for a float.
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Scalar = Union[bool, Int64, Finite, Annotated[str, StringConstraints(max_length=1000)]]  # noqa: UP007
FieldName = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Operand = Scalar | Annotated[list[Scalar], Field(max_length=1000)]
Operators = Annotated[dict[str, Operand], Field(min_length=1, max_length=6)]
MAX_NAME_LENGTH, MAX_VALUE_LENGTH, MAX_VALUES = 100, 1000, 1000
MAX_ATTRIBUTES, MAX_FILTER_FIELDS = 64, 16
MAX_FILTER_LENGTH = 64 * 1024


def parse_json(text: str | bytes) -> Any:
    """JSON in a form field or a query parameter.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON") from None


def _check_values(name: str, value: Any) -> None:
    values = value if isinstance(value, list) else [value]
    if len(values) > MAX_VALUES:
        raise ValueError(f"{name!r}: at most {MAX_VALUES:,} values")
    if any(isinstance(one, str) and len(one) > MAX_VALUE_LENGTH for one in values):
        raise ValueError(f"{name!r}: a text may have at most {MAX_VALUE_LENGTH:,} characters")


def _check_names(fields: Any, most: int) -> None:
    if not isinstance(fields, dict):
        raise ValueError("must be a JSON object")
    if len(fields) > most:
        raise ValueError(f"at most {most} fields")
    if any(not 1 <= len(name) <= MAX_NAME_LENGTH for name in fields):
        raise ValueError(f"the name of a field must have 1 to {MAX_NAME_LENGTH} characters")


def _plain(check: Callable[[], Any], prefix: str) -> Any:
    """`check()`, its InputError as a ValueError without `prefix`, which pydantic's location repeats."""
    try:
        return check()
    except InputError as error:
        raise ValueError(str(error).removeprefix(prefix)) from None


def _check_attributes(attributes: Any) -> dict[str, Any]:
    """What `service.gallery` takes, less attributes that are null, and nothing too large."""
    _check_names(attributes, MAX_ATTRIBUTES)
    checked: dict[str, Any] = _plain(lambda: check_attributes(attributes, ""), "item '': ")
    for name, value in checked.items():
        _check_values(name, value)
    return checked


def _check_filter(filter: Any) -> dict[str, Any]:
    _check_names(filter, MAX_FILTER_FIELDS)
    for name, wanted in filter.items():
        for operand in wanted.values() if isinstance(wanted, Mapping) else [wanted]:
            _check_values(name, operand)
    _plain(lambda: compile_filter(filter), "filter: ")
    if len(json.dumps(filter, ensure_ascii=False)) > MAX_FILTER_LENGTH:
        raise ValueError(f"a filter may have at most {MAX_FILTER_LENGTH:,} characters")
    return dict(filter)


def _documented(kind: Any) -> WithJsonSchema:
    return WithJsonSchema(TypeAdapter(kind).json_schema())


Filter = Annotated[
    dict[str, Any],
    BeforeValidator(_check_filter),
    _documented(Annotated[dict[FieldName, Scalar | Operators], Field(max_length=MAX_FILTER_FIELDS)]),
]
Attributes = Annotated[
    dict[str, Any],
    BeforeValidator(_check_attributes),
    _documented(Annotated[dict[FieldName, Scalar | list[Scalar] | None], Field(max_length=MAX_ATTRIBUTES)]),
]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


def _check_id(item_id: str) -> str:
    if item_id in (".", "..") or any(ord(c) < 32 or ord(c) == 127 for c in item_id):
        raise ValueError('an id may not be "." or "..", nor hold control characters')
    return item_id


ItemIdText = Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(_check_id)]


def decode_base64_image(text: str) -> bytes:
    """Bytes of a picture given as base64 or as a `data:image/…;base64,` URI.

    Raises:
        ValueError: something else; nothing is ever fetched from a URL.
    """
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.startswith("data:image/") or not head.endswith(";base64"):
            raise ValueError("a data URI must start with data:image/…;base64,")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("image must be base64 or a data:image/…;base64, URI") from error


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SearchOptions(_Request):
    """What every kind of search may be told."""

    top_k: int = Field(default=10, ge=1, description="number of results")
    filter: Filter | None = Field(
        default=None,
        description='{"field": value} or {"field": {"in"|"ne"|"gt"|"gte"|"lt"|"lte": …}}, all of them hold',
    )
    min_relevance: Finite | None = Field(
        default=None, description="drop results that are less relevant than this (not in keyword mode)"
    )


class SearchRequest(SearchOptions):
    """Search by `text`, or by the picture of the item `item_id` (which is left out of the results)."""

    text: Text | None = None
    item_id: ItemIdText | None = None
    mode: Mode = Field(
        default="vector", description="vector: the model; keyword: words of the titles; hybrid: both"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> SearchRequest:
        if (self.text is None) == (self.item_id is None):
            raise ValueError("give either text or item_id")
        if self.item_id is not None and self.mode != "vector":
            raise ValueError("a search by item_id has mode vector")
        if self.min_relevance is not None and self.mode == "keyword":
            raise ValueError("min_relevance needs mode vector or hybrid")
        return self


class ModelInfo(BaseModel):
    name: str = Field(description='"lite", or "lite/0003" for a version of it')
    fingerprint: str


class SearchResult(BaseModel):
    id: str
    score: float
    title: str
    image_url: str | None = Field(description="path on this server; null if the item has no picture")
    attributes: dict[str, Any]


class SearchResponse(BaseModel):
    results: list[SearchResult]
    no_match: bool = Field(description="nothing relevant enough was found")
    model: ModelInfo
    took_ms: dict[str, float] = Field(description="decode (pictures), queue, encode, search, total")


class ItemResponse(BaseModel):
    id: str
    title: str
    attributes: dict[str, Any]
    image_url: str | None


Title = Annotated[str, StringConstraints(strip_whitespace=True, max_length=1000)]


class ItemForm(_Request):
    """The fields of an item in a multipart form, its file aside."""

    title: Title = ""
    attributes: Annotated[Attributes, BeforeValidator(parse_json)] = Field(default_factory=dict)


class ItemBody(_Request):
    """One item. `image` is base64 or a data URI; an item that exists keeps its picture without it."""

    title: Title = ""
    attributes: Attributes = Field(default_factory=dict)
    image: str | None = None


class BatchItem(ItemBody):
    id: ItemIdText


class BatchRequest(_Request):
    items: Annotated[list[BatchItem], Field(min_length=1)]


class ItemProblem(BaseModel):
    index: int = Field(description="position in the request")
    id: str
    code: str
    message: str


class BatchResponse(BaseModel):
    """What became of the items; those with a problem are left out, the others are durable."""

    added: int
    updated: int
    unchanged: int
    failed: list[ItemProblem]


class EmbeddingsRequest(BaseModel):
    """OpenAI's shape. Inputs that start with `data:image/` are pictures."""

    model_config = ConfigDict(extra="ignore")  # OpenAI's clients send more, such as `user`

    input: Text | Annotated[list[Text], Field(min_length=1)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="base64: little-endian float32")


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class ReadyResponse(BaseModel):
    status: Literal["ready"] = "ready"
    model: ModelInfo
    items: int
    writable: bool
    feedback: bool = Field(description="whether feedback is taken")
    limits: dict[str, int]


class ErrorDetail(BaseModel):
    code: str
    message: str
    request_id: str


class ErrorResponse(BaseModel):
    error: ErrorDetail
