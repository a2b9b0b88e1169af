"""Score an encoder on a labelled split: full gallery, many-to-many relevance, both directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from cnclip.data.muge import TextRow
from cnclip.errors import ImageError, InputError
from cnclip.evaluation.ranks import (
    FloatArray,
    IntArray,
    metrics,
    query_metrics,
    relevant_ranks,
    top_k,
    transpose,
)

OnProgress = Callable[[str, int, int], None]
"""Called with (what is embedded, done, in all)."""

_READ_AHEAD = 512  # pictures held as encoded bytes at a time


class Embedder(Protocol):
    """What evaluation needs of an `Encoder`."""

    @property
    def name(self) -> str: ...
    @property
    def dim(self) -> int: ...
    def encode_texts(self, texts: Sequence[str], *, batch_size: int = ...) -> FloatArray: ...
    def encode_images(
        self,
        images: Sequence[Any],
        *,
        batch_size: int = ...,
        on_error: str = ...,
        skipped: list[tuple[int, ImageError]] | None = ...,
    ) -> FloatArray: ...


class LabelledSplit(Protocol):
    """What evaluation needs of a `PairDataset`."""

    @property
    def image_ids(self) -> list[str]: ...
    @property
    def texts(self) -> list[TextRow]: ...
    def image_bytes(self, image_id: str) -> bytes: ...
    def relevance(self) -> Sequence[IntArray]: ...


@dataclass
class Embedded:
    """A split as vectors.

    text_vectors: float32 (t, d), row i of `texts`. image_vectors: float32 (g, d), row j of `image_ids`, the
    pictures that could be read. relevant: for each text its rows of `image_vectors`. problems: one line for
    each picture that could not be read.
    """

    model: str
    texts: list[TextRow]
    image_ids: list[str]
    text_vectors: FloatArray
    image_vectors: FloatArray
    relevant: list[IntArray]
    problems: list[str] = field(default_factory=list)


def embed_texts(encoder: Embedder, texts: list[TextRow], batch_size: int) -> FloatArray:
    """float32 (n, d); each distinct text is embedded once."""
    distinct = {text: i for i, text in enumerate(dict.fromkeys(row.text for row in texts))}
    vectors = encoder.encode_texts(list(distinct), batch_size=batch_size)
    return vectors[[distinct[row.text] for row in texts]]


def _embed_images(
    encoder: Embedder, dataset: LabelledSplit, batch_size: int, progress: OnProgress | None
) -> tuple[FloatArray, list[int], list[str]]:
    """Vectors, the positions in `dataset.image_ids` that they belong to, and one line for each other one."""
    ids = dataset.image_ids
    chunks: list[FloatArray] = []
    positions: list[int] = []
    problems: list[str] = []
    for start in range(0, len(ids), _READ_AHEAD):
        stop = min(start + _READ_AHEAD, len(ids))
        read: list[tuple[int, bytes]] = []
        for i in range(start, stop):
            try:
                read.append((i, dataset.image_bytes(ids[i])))
            except InputError as error:
                problems.append(str(error))
        skipped: list[tuple[int, ImageError]] = []
        images = [data for _, data in read]
        vectors = encoder.encode_images(images, batch_size=batch_size, on_error="skip", skipped=skipped)
        broken = {i for i, _ in skipped}
        problems += [f"image_id {ids[read[i][0]]}: {error}" for i, error in skipped]
        positions += [position for i, (position, _) in enumerate(read) if i not in broken]
        chunks.append(vectors)
        if progress is not None:
            progress("pictures", stop, len(ids))
    if not positions:
        raise InputError(f"no readable picture to evaluate on ({len(ids)} listed)")
    return np.concatenate(chunks), positions, problems


def embed(
    encoder: Embedder, dataset: LabelledSplit, *, batch_size: int = 64, progress: OnProgress | None = None
) -> Embedded:
    """Embed each distinct picture and each distinct text of a split once.

    Pictures that cannot be read leave the gallery and are reported in `problems`.

    Raises:
        InputError: no text, or no readable picture.
    """
    if not dataset.texts:
        raise InputError("no texts to evaluate with")
    image_vectors, positions, problems = _embed_images(encoder, dataset, batch_size, progress)
    row_of = np.full(len(dataset.image_ids), -1, np.int64)
    row_of[positions] = np.arange(len(positions))
    rows = [row_of[items] for items in dataset.relevance()]
    return Embedded(
        model=encoder.name,
        texts=dataset.texts,
        image_ids=[dataset.image_ids[i] for i in positions],
        text_vectors=embed_texts(encoder, dataset.texts, max(batch_size, 256)),
        image_vectors=image_vectors,
        relevant=[items[items >= 0] for items in rows],
        problems=problems,
    )


def score(embedded: Embedded) -> dict[str, Any]:
    """Metrics of an embedded split in the shape that `evaluate` describes.

    Raises:
        InputError: no text has a relevant picture.
    """
    texts, images = embedded.text_vectors, embedded.image_vectors
    to_image = relevant_ranks(texts, images, embedded.relevant)
    to_text = relevant_ranks(images, texts, transpose(embedded.relevant, len(images)))
    report: dict[str, Any] = {
        "text_to_image": metrics(to_image),
        "image_to_text": metrics(to_text),
        "n_queries": len(to_image.queries),
        "n_gallery": len(images),
        "model": embedded.model,
    }
    left_out = {
        "unreadable pictures": len(embedded.problems),
        "texts without a relevant picture": len(texts) - len(to_image.queries),
        "pictures without a text (gallery only)": len(images) - len(to_text.queries),
    }
    if any(left_out.values()):
        report["left_out"] = {what: count for what, count in left_out.items() if count}
    return report


def evaluate(
    encoder: Embedder, dataset: LabelledSplit, *, batch_size: int = 64, progress: OnProgress | None = None
) -> dict[str, Any]:
    """Full-gallery retrieval metrics of `encoder` on `dataset`, fractions in 0..1 (see `ranks.metrics`).

    Returns:
        `{"text_to_image": {"R@1", "R@5", "R@10", "mean_recall", "mAP", "MRR", "P@10"}, "image_to_text": {…},
        "n_queries", "n_gallery", "model"}`. `n_queries` counts the texts scored. Where anything could not
        take part, `"left_out"` counts it by reason.

    Raises:
        InputError: no text has a relevant picture, or no picture can be read.
    """
    return score(embed(encoder, dataset, batch_size=batch_size, progress=progress))


def per_query(embedded: Embedded, *, worst: int | None = None, k: int = 10) -> list[dict[str, Any]]:
    """Every scored text with its numbers and its first `k` pictures, worst average precision first.

    Returns:
        rows `{"text_id", "text", "n_relevant", "AP", "P@10", "first_rank", "top": [{"image_id", "score",
        "relevant"}, …]}`, the `worst` first of them or all.
    """
    ranks = relevant_ranks(embedded.text_vectors, embedded.image_vectors, embedded.relevant)
    numbers = query_metrics(ranks)
    chosen = np.argsort(numbers["AP"], kind="stable")[:worst]
    queries = ranks.queries[chosen]
    scores, rows = top_k(embedded.text_vectors[queries], embedded.image_vectors, k)
    result = []
    for i, query, query_scores, query_rows in zip(chosen, queries, scores, rows, strict=True):
        text, wanted = embedded.texts[query], set(embedded.relevant[query].tolist())
        top = [
            {"image_id": embedded.image_ids[row], "score": float(value), "relevant": int(row) in wanted}
            for value, row in zip(query_scores, query_rows, strict=True)
        ]
        result.append(
            {
                "text_id": text.text_id,
                "text": text.text,
                "n_relevant": len(wanted),
                "AP": float(numbers["AP"][i]),
                "P@10": float(numbers["P@10"][i]),
                "first_rank": int(numbers["first"][i]),
                "top": top,
            }
        )
    return result
