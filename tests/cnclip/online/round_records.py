"""Records of rounds of online learning, made by hand for the tests of the report."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from cnclip.online.record import FOLDER, ROUNDS, THUMBS, gallery_thumb

NAMES = ("R@1", "R@5", "R@10", "mean_recall", "mAP", "MRR", "P@10")


Sides = tuple[float, float]


def metrics(base: float) -> dict[str, float]:
    """Every metric a different number, mAP is `base`."""
    return {name: base + (NAMES.index(name) - NAMES.index("mAP")) / 1000 for name in NAMES}


def short(base: float) -> dict[str, float]:
    return {name: value for name, value in metrics(base).items() if name in ("mAP", "R@10", "P@10")}


def full(base: float) -> dict[str, Any]:
    """What `evaluate` returns; image to text lies 0.1 above text to image."""
    return {
        "text_to_image": metrics(base),
        "image_to_text": metrics(base + 0.1),
        "n_queries": 141,
        "n_gallery": 637,
        "model": "lite",
    }


def group(before: float, after: float | None, n_queries: int, **more: Any) -> dict[str, Any]:
    sides = {"before": short(before), "after": None if after is None else short(after)}
    return {"n_queries": n_queries, **more, **sides}


def fresh(query: str, number: int = 1, outcome: str = "used", **origin: str) -> dict[str, Any]:
    """A picture whose hash tells query and number."""
    return {
        "query": query,
        "number": number,
        "outcome": outcome,
        "similarity": 0.31 if outcome == "used" else 0.05,
        "sha256": hashlib.sha256(f"{query}/{number}".encode()).hexdigest(),
        "origin": {
            "source": "practice-shop",
            "page_url": f"http://127.0.0.1/item?id={number}",
            "title": f"{query} 新款",
            "fetched_at": "2026-01-31T12:00:00Z",
            **origin,
        },
    }


def mover(
    text: str, before: float, after: float, *, taught: bool = True, text_id: str = ""
) -> dict[str, Any]:
    """Wrong pictures first before, right ones first after."""
    return {
        "text_id": text_id or text,
        "text": text,
        "taught": taught,
        "n_relevant": 2,
        "AP": [before, after],
        "P@10": [before, after],
        "top_before": [{"image_id": f"{text}-{i}", "relevant": i == 2} for i in range(3)],
        "top_after": [{"image_id": f"{text}-{i}", "relevant": i == 2} for i in (2, 0, 1)],
    }


def record(
    number: int,
    decision: str = "kept",
    *,
    taught: Sides | dict[str, Any] | None = (0.2, 0.3),
    others: Sides | dict[str, Any] | None = (0.8, 0.799),
    labelled: Sides | dict[str, Any] | None = (0.6, 0.62),
    canary: Sides | dict[str, Any] | None = (0.9, 0.899),
    **changes: Any,
) -> dict[str, Any]:
    """One round: two queries of 141 get a picture, one more picture is refused. Numbers are (before, after)
    of mAP; anything else is put in as it is. A round that is skipped has no after and no steps. changes:
    fields that differ."""
    skipped = decision == "skipped"

    def measured(found: Sides | dict[str, Any] | None, n_queries: int, **more: Any) -> dict[str, Any] | None:
        if not isinstance(found, tuple):
            return found
        return group(found[0], None if skipped else found[1], n_queries, **more)

    if isinstance(labelled, tuple):
        labelled = {"before": full(labelled[0]), "after": None if skipped else full(labelled[1])}
    step = {"loss": 1.2, "pairs": 2, "replayed": 64, "grad_norm": 0.7, "lr": 1e-4}
    made = {
        "round": number,
        "step": 50 * number,
        "epoch": number,
        "time": 1.79e9 + 60 * number,
        "source": "practice-shop",
        "decision": decision,
        "why": f"reason of round {number}",
        "seconds": {"fetch": 1.25, "gate": 0.5, "step": 0.0 if skipped else 8.0, "measure": 5.0},
        "metric": "mAP",
        "tolerance": 0.002,
        "labelled": labelled,
        "taught": measured(taught, 2),
        "others": measured(others, 139),
        "canary": measured(canary, 40, n_gallery=300),
        "steps": [] if skipped else [step],
        "steps_skipped": int(skipped),
        "distance": 0.001 * number,
        "queries": {"asked": 141, "with pictures": 3, "missed": {"empty": 130, "timeout": 8}},
        "pictures": [fresh("芒果"), fresh("牛奶"), fresh("酸奶", outcome="near-duplicate")],
        "movers": [] if skipped else [mover("芒果", 0.1, 0.4), mover("苹果", 0.9, 0.8, taught=False)],
    }
    return made | changes


def write_rounds(run: Path, records: Sequence[dict[str, Any]], *, thumbs: bool = True) -> Path:
    """The records as a run has them, with a thumbnail for every picture they name."""
    path = run / FOLDER / ROUNDS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in records), encoding="utf-8")
    names = {f"{item['sha256']}.jpg" for row in records for item in row["pictures"]}
    hits = (
        hit for row in records for item in row["movers"] for hit in item["top_before"] + item["top_after"]
    )
    names |= {gallery_thumb(hit["image_id"]) for hit in hits}
    (run / FOLDER / THUMBS).mkdir(exist_ok=True)
    for number, name in enumerate(sorted(names) if thumbs else ()):
        (run / FOLDER / THUMBS / name).write_bytes(jpeg(number))
    return run


def jpeg(number: int) -> bytes:
    """A small picture, a different one for each number."""
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (37 * number % 256, 91 * number % 256, 11 * number % 256)).save(buffer, "JPEG")
    return buffer.getvalue()
