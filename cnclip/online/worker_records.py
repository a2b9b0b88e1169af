"""The records of an online worker: those of a run (`RoundBook`), which do not grow for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cnclip.model.atomic import replacing
from cnclip.online.record import FOLDER, ROUNDS, THUMBS, RoundBook, gallery_thumb

KEEP_ROUNDS = 300  # records; pictures of earlier rounds are as good as new


class WorkerBook(RoundBook):
    """See the module's docstring. home: folder of the worker."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._folder = home / FOLDER

    def trim(self, keep: int = KEEP_ROUNDS) -> None:
        """Forget all but the last `keep` rounds, and the small pictures that only the others show."""
        rows = self.rows()
        if len(rows) <= keep:
            return
        kept = rows[-keep:]
        with replacing(self._folder / ROUNDS) as temporary:
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in kept]
            temporary.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
        shown = {name for row in kept for name in _thumbs(row)}
        for path in (self._folder / THUMBS).glob("*.jpg"):
            if path.name not in shown:
                path.unlink(missing_ok=True)


def _thumbs(row: dict[str, Any]) -> set[str]:
    """File names of the small pictures that a round's record shows."""
    fresh = {f"{picture['sha256']}.jpg" for picture in row.get("pictures", ())}
    hits = [hit for mover in row.get("movers", ()) for hit in (*mover["top_before"], *mover["top_after"])]
    return fresh | {gallery_thumb(hit["image_id"]) for hit in hits}
