"""What a build may do and what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from cnclip.errors import InputError
from cnclip.printable import printable

CheckImages = Literal["header", "decode", "off"]
MAX_PROBLEMS = 50  # lines kept for people to read; the counts are always complete


def none_usable(name: str, what: str, rows: int, problems: Sequence[str]) -> str:
    """The line about a file `name` in which no row is a usable `what`; `problems` begins with the first."""
    first = "".join(f"; first: {line}" for line in problems[:1])
    return printable(f"{name}: no usable {what} in {rows} rows{first}")


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    force: replace an existing split. strict: stop at the first broken row.
    check_images: "header" opens each picture (format and size, about 30 µs), "decode" decodes all of it,
    "off" takes any bytes. shard_bytes: a shard that has reached this many bytes of pictures is closed.
    batch_bytes: pictures written, and made durable, at once.
    """

    force: bool = False
    strict: bool = False
    check_images: CheckImages = "header"
    shard_bytes: int = 8 * 2**30
    batch_bytes: int = 16 * 2**20

    def __post_init__(self) -> None:
        if self.check_images not in get_args(CheckImages):
            raise InputError(f"check_images: unknown choice {self.check_images!r}")
        if self.shard_bytes < 1 or self.batch_bytes < 1:
            raise InputError("shard_bytes and batch_bytes must be at least 1")


@dataclass
class Tally:
    """Rows of one kind: read, kept, dropped by reason, and what was noted about others."""

    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    noted: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str) -> None:
        """Count one row that is left out."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def note(self, what: str, count: int = 1) -> None:
        """Count something worth knowing about rows that stay."""
        self.noted[what] = self.noted.get(what, 0) + count

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class SplitReport:
    """The outcome of one split."""

    split: str
    images: Tally = field(default_factory=Tally)
    texts: Tally = field(default_factory=Tally)
    pairs: int = 0
    shards: int = 0
    image_bytes: int = 0
    resumed_at: int = 0
    """Line of the picture file after which a killed build was taken up again; 0 for a fresh one."""
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    """One line each, `file:line: field F: why`, the first `MAX_PROBLEMS` of them."""

    def problem(self, message: str) -> None:
        """Keep a line for people, up to the cap."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(message)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
