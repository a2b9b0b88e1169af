"""Settings of the service, read from flags (`cnclip serve`) and `CNCLIP_…` environment variables."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.layout import JOURNAL_NAME, MODELS_NAME

CORES = min(8, max(2, os.cpu_count() or 2))
LogLevel = Literal["debug", "info", "warning", "error"]
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address, as one binds to or as a client asks for) is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def names_loopback(authority: str) -> bool:
    """Whether `authority` (host and port, as in a Host header) names this machine only."""
    match = _AUTHORITY.fullmatch(authority)
    return match is not None and is_loopback(match["host"].lower())


class ServiceSettings(BaseSettings):
    """What the service may be told. An unknown keyword is an error; an unknown environment variable is not
    looked at. Descriptions are the help texts of `cnclip serve`."""

    model_config = SettingsConfigDict(
        env_prefix="CNCLIP_", env_ignore_empty=True, extra="forbid", frozen=True
    )

    gallery: Path = Field(description="directory of the gallery (make one with `cnclip index`)")
    model: str | None = Field(
        default=None, description="model name, checkpoint or folder (default: the one that made the gallery)"
    )
    models: Path | None = Field(
        default=None, description="directory of model versions (default: `models` in the gallery)"
    )
    canary_margin: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="a new model version may find this share less of the items by their titles",
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    api_key: SecretStr | None = Field(
        default=None, min_length=8, description="key that /v1/* asks for; better given as CNCLIP_API_KEY"
    )
    read_only: bool = Field(default=False, description="open the gallery read-only and refuse writes")
    max_batch: int = Field(default=32, ge=1, le=1024, description="most texts encoded at once")
    max_image_batch: int = Field(default=8, ge=1, le=1024, description="most pictures encoded at once")
    queue_size: int = Field(
        default=256,
        ge=1,
        description="inputs that may wait for the model, and searches or writes for a thread; then 429",
    )
    deadline_ms: int = Field(
        default=10_000, ge=1, description="longest a search may take, milliseconds; then 504"
    )
    body_timeout_ms: int = Field(
        default=10_000, ge=1, description="longest pause in the body of a request, milliseconds; then 408"
    )
    threads: int = Field(
        default=4, ge=1, le=256, description="threads for searching, and as many for decoding"
    )
    cache_size: int = Field(default=10_000, ge=0, description="query vectors kept in memory; 0 keeps none")
    max_text_length: int = Field(default=512, ge=1, description="longest query, characters")
    max_top_k: int = Field(default=200, ge=10, description="most results of one search")
    max_inputs: int = Field(default=64, ge=1, description="most items or embedding inputs of one request")
    max_upload_bytes: int = Field(default=20 * 2**20, ge=1024, description="largest picture file, bytes")
    # Pillow refuses pictures of more than 178,956,970 pixels whatever it is told.
    max_pixels: int = Field(default=40_000_000, ge=1, le=178_956_970, description="largest picture, pixels")
    query_log: bool = Field(default=False, description="note the texts of searches, for the learner")
    query_log_size: int = Field(
        default=100_000, ge=1, description="searches that the query log holds; the oldest go"
    )
    journal: Path | None = Field(
        default=None,
        description="file for feedback and the query log (default: journal.sqlite in the gallery)",
    )
    log_level: LogLevel = Field(default="info", description="debug, info, warning or error")
    access_log: bool = Field(
        default=False, description="log one line per request (metrics count them anyway)"
    )

    @model_validator(mode="after")
    def _one_request_fits_the_queue(self) -> ServiceSettings:
        if self.max_inputs > self.queue_size:
            raise ValueError(f"max_inputs ({self.max_inputs}) must not exceed queue_size ({self.queue_size})")
        return self

    @property
    def local_only(self) -> bool:
        """Whether nothing but listening on a loopback address keeps others out."""
        return self.api_key is None and is_loopback(self.host)

    @property
    def models_dir(self) -> Path:
        """Where versions of the model are."""
        return self.models if self.models is not None else self.gallery / MODELS_NAME

    @property
    def journal_path(self) -> Path | None:
        """Where feedback and the query log go; None: nowhere, the gallery is not to be written to."""
        if self.journal is not None or self.read_only:
            return self.journal
        return self.gallery / JOURNAL_NAME

    @property
    def deadline_s(self) -> float:
        return self.deadline_ms / 1000

    @property
    def max_body_bytes(self) -> int:
        """Most bytes of a request body: one largest picture as base64, and some room for the rest."""
        return self.max_upload_bytes * 4 // 3 + 256 * 1024
