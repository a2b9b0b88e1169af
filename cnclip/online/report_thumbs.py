"""Small pictures within a report: read from the run's folder, bounded in number and size, marked in shape."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path

from cnclip.online.record import FOLDER, THUMBS, gallery_thumb
from cnclip.online.report_rounds import Fresh, Hit
from cnclip.training.report_page import text

MAX_THUMBS = 400
MAX_BYTES = 64 * 1024  # of one; a thumbnail of 96 pixels has a tenth of that
_SHA256 = re.compile("[0-9a-f]{64}")

THUMBS_STYLE = """
.shots { display: flex; flex-wrap: wrap; gap: 8px; margin: 4px 0 10px; }
.shot { position: relative; margin: 0; width: 70px; font-size: 11.5px; line-height: 1.3; }
.shot .frame { display: flex; align-items: center; justify-content: center; width: 70px; height: 70px;
  border: 2px solid var(--line); border-radius: 8px; overflow: hidden; background: var(--neutral-behind); }
.shot img { width: 100%; height: 100%; object-fit: contain; margin: 0; }
.shot .none { color: var(--faint); padding: 4px; text-align: center; overflow-wrap: anywhere; }
.shot figcaption { color: var(--faint); overflow-wrap: anywhere; max-height: 4.2em; overflow: hidden; }
.shot.right .frame { border: 3px solid var(--good); }
.shot.wrong .frame { border: 3px dashed var(--bad); }
.shot .mark { position: absolute; top: -5px; right: -5px; width: 21px; height: 21px; border-radius: 50%;
  text-align: center; font-weight: 700; font-size: 12.5px; line-height: 21px; color: var(--card); }
.shot.right .mark { background: var(--good); }
.shot.wrong .mark { background: var(--bad); border-radius: 5px; }
.shot.small, .shot.small .frame { width: 40px; height: 40px; }
@media (max-width: 640px) { .shots { display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); }
  .shots .shot { width: auto; } .shots .shot .frame { width: 100%; height: auto; aspect-ratio: 1; } }
"""


class Thumbs:
    """The thumbnails of a run. Each that is shown becomes part of the page, so that the page loads nothing.

    limit: how many are shown in all, those that are shown twice counted twice. left_out, missing: how many
    were not shown as there are too many, and as there is no file, or none that is a small JPEG.
    """

    def __init__(self, run: Path, limit: int = MAX_THUMBS) -> None:
        self._folder, self._left = run / FOLDER / THUMBS, limit
        self.left_out = self.missing = 0

    def fresh(self, picture: Fresh, caption: str = "", *, small: bool = False) -> str:
        """A picture that came for a query."""
        told = picture.origin.get("title") or picture.query
        # the name of a file is made of it, so it must be nothing else
        name = f"{picture.sha256}.jpg" if _SHA256.fullmatch(picture.sha256) else ""
        return self._figure("shot small" if small else "shot", name, told, caption)

    def hits(self, hits: Sequence[Hit]) -> str:
        """The first gallery pictures of a query in order, right and wrong told by mark, frame and colour."""
        figures = []
        for hit in hits:
            kind, mark = ("right", "✓") if hit.relevant else ("wrong", "✗")
            told = f"{hit.image_id}, {kind}"
            figures.append(self._figure(f"shot {kind}", gallery_thumb(hit.image_id), told, mark=mark))
        return f'<div class="shots">{"".join(figures)}</div>'

    def _figure(self, kind: str, name: str, told: str, caption: str = "", mark: str = "") -> str:
        data = self._read(name)
        if data:
            source = f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
            inner = f'<img src="{source}" alt="{text(_cut(told))}">'
        else:
            inner = f'<span class="none">{"" if "small" in kind else text(_cut(told, 24))}</span>'
        parts = f'<div class="frame" title="{text(_cut(told))}">{inner}</div>'
        parts += f'<span class="mark">{mark}</span>' if mark else ""
        parts += f"<figcaption>{text(_cut(caption))}</figcaption>" if caption else ""
        return f'<figure class="{kind}">{parts}</figure>'

    def _read(self, name: str) -> bytes:
        if self._left <= 0:
            self.left_out += 1
            return b""
        try:
            with (self._folder / name).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError:
            data = b""
        if len(data) > MAX_BYTES or not data.startswith(b"\xff\xd8\xff"):
            self.missing += 1
            return b""
        self._left -= 1
        return data


def _cut(told: str, length: int = 120) -> str:
    return told if len(told) <= length else f"{told[: length - 1]}…"
