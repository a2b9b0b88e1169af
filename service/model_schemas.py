"""Responses and requests of the routes about model versions and feedback."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints

from service.schemas import ItemIdText, ModelInfo, Text


class ParentInfo(BaseModel):
    """What a version was learned from."""

    version: str | None = Field(description="null: a model that is no version, such as the base")
    fingerprint: str


class VersionInfo(BaseModel):
    """One version on disk."""

    name: str
    version: str
    fingerprint: str
    parent: ParentInfo | None
    created: str = Field(description="ISO 8601, UTC")
    changed: Literal["text", "image", "both", "none"] = Field(
        description="which towers differ from the parent's; an unchanged image tower is activated at once"
    )
    summary: dict[str, float]
    active: bool


class ActivationInfo(BaseModel):
    """The activation that runs, or ran last since the service started."""

    model: str
    kind: Literal["activate", "rollback"]
    outcome: Literal["running", "done", "refused", "cancelled", "failed"]
    step: Literal["loading", "embedding", "checking", "switching"]
    done: int = Field(description="items that have a vector of the new model")
    total: int = Field(description="items in all; 0 where none needs a new vector")
    error: str | None = Field(description="why it was refused, or failed")
    canary: str | None = Field(description="what the check on the gallery's titles found")
    started: str = Field(description="ISO 8601, UTC")
    seconds: float
    resumed: bool = Field(description="it was interrupted by a restart of the service")


class ModelsResponse(BaseModel):
    """active: what answers now. base: what the gallery was made with. previous: what a rollback goes to."""

    active: ModelInfo
    base: ModelInfo
    previous: ModelInfo | None
    versions: list[VersionInfo]
    activation: ActivationInfo | None


Version = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80)]


class ActivateRequest(BaseModel):
    """A version ("0003", or "lite/0003"), or "base" for the model that the gallery was made with."""

    model_config = ConfigDict(extra="forbid")

    version: Version
    name: Version | None = Field(default=None, description="of the model, where several have this version")


class FeedbackRequest(BaseModel):
    """Whether an item is right for a query."""

    model_config = ConfigDict(extra="forbid")

    query: Text
    item_id: ItemIdText
    relevant: StrictBool


class FeedbackResponse(BaseModel):
    """Stored, and on disk."""

    id: int = Field(description="rises with every feedback")
