"""`evaluate` end to end with an encoder whose vectors are known."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cnclip.data.dataset import PairDataset
from cnclip.data.lmdb_build import build_lmdb
from cnclip.data.lmdb_report import BuildOptions
from cnclip.errors import ImageError, InputError
from cnclip.evaluation.evaluator import embed, evaluate, per_query, score
from cnclip.evaluation.report import metrics_table, queries_table
from cnclip.image import decode_image
from tests.cnclip.data.muge_files import image_line, text_line, write_lines
from tests.cnclip.evaluation.test_ranks import naive_metrics

COLOURS = {"红色": (255, 0, 0), "绿色": (0, 255, 0), "蓝色": (0, 0, 255)}


class ColourEncoder:
    """Text: the colour it names. Picture: its mean colour. Counts what it is asked."""

    name, dim = "colours", 3

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.n_images = 0

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        assert batch_size > 0
        self.texts += texts
        named = [next(rgb for name, rgb in COLOURS.items() if name in text) for text in texts]
        return self._unit(np.array(named, np.float32).reshape(-1, 3))

    def encode_images(
        self,
        images: Sequence[Any],
        *,
        batch_size: int = 32,
        on_error: str = "raise",
        skipped: list[tuple[int, ImageError]] | None = None,
    ) -> np.ndarray:
        assert batch_size > 0 and on_error == "skip" and skipped is not None
        self.n_images += len(images)
        rows = []
        for i, data in enumerate(images):
            try:
                rows.append(np.asarray(decode_image(data)).mean((0, 1)))
            except ImageError as error:
                skipped.append((i, error))
        return self._unit(np.array(rows, np.float32).reshape(-1, 3))

    @staticmethod
    def _unit(vectors: np.ndarray) -> np.ndarray:
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def solid(rgb: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), rgb).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def colours(tmp_path: Path) -> PairDataset:
    """Red 0 1, green 2, blue 3, orange 4, a broken one 5, and one without a text 6."""
    pixels = [(255, 0, 0), (250, 5, 5), (0, 255, 0), (0, 0, 255), (255, 60, 0)]
    lines = [image_line(i, solid(rgb)) for i, rgb in enumerate(pixels)]
    lines += [image_line(5, b"broken"), image_line(6, solid((90, 90, 90)))]
    write_lines(tmp_path / "valid_imgs.tsv", lines)
    texts = [
        text_line(1, "红色连衣裙", [0, 1, 5]),
        text_line(2, "绿色", [2]),
        text_line(3, "蓝色", [4]),  # wrong on purpose
        text_line(4, "红色连衣裙", [4]),
        text_line(5, "绿色外套", []),
        text_line(6, "蓝色帽子", [5]),
    ]
    write_lines(tmp_path / "valid_texts.jsonl", texts)
    build_lmdb(tmp_path, ["valid"], options=BuildOptions(check_images="off"))
    return PairDataset(tmp_path / "lmdb" / "valid")


def test_report_has_the_documented_shape_and_the_right_numbers(colours: PairDataset) -> None:
    encoder = ColourEncoder()
    seen: list[tuple[str, int, int]] = []
    report = evaluate(encoder, colours, batch_size=2, progress=lambda *step: seen.append(step))
    assert list(report) == ["text_to_image", "image_to_text", "n_queries", "n_gallery", "model", "left_out"]
    names = ["R@1", "R@5", "R@10", "mean_recall", "mAP", "MRR", "P@10"]
    assert list(report["text_to_image"]) == list(report["image_to_text"]) == names
    assert (report["n_queries"], report["n_gallery"], report["model"]) == (4, 6, "colours")
    assert report["left_out"] == {
        "unreadable pictures": 1,
        "texts without a relevant picture": 2,
        "pictures without a text (gallery only)": 2,
    }
    embedded = embed(ColourEncoder(), colours)
    matrix = embedded.text_vectors @ embedded.image_vectors.T
    relevant = [[0, 1], [2], [4], [4], [], []]
    assert [row.tolist() for row in embedded.relevant] == relevant
    assert report["text_to_image"] == pytest.approx(naive_metrics(matrix, relevant))
    back = [[t for t, row in enumerate(relevant) if i in row] for i in range(6)]
    assert report["image_to_text"] == pytest.approx(naive_metrics(matrix.T.copy(), back))
    assert json.loads(json.dumps(report)) == report
    assert seen[-1] == ("pictures", 7, 7)


def test_clean_data_has_no_left_out(colours: PairDataset) -> None:
    embedded = embed(ColourEncoder(), colours)
    embedded.problems.clear()
    embedded.relevant = [np.array([i % 6]) for i in range(6)]
    assert "left_out" not in score(embedded)


def test_each_distinct_text_and_picture_is_embedded_once(colours: PairDataset) -> None:
    encoder = ColourEncoder()
    embedded = embed(encoder, colours)
    assert encoder.texts == ["红色连衣裙", "绿色", "蓝色", "绿色外套", "蓝色帽子"] and encoder.n_images == 7
    assert embedded.text_vectors.shape == (6, 3) and embedded.image_ids == ["0", "1", "2", "3", "4", "6"]
    assert np.array_equal(embedded.text_vectors[0], embedded.text_vectors[3])
    assert len(embedded.problems) == 1 and embedded.problems[0].startswith("image_id 5: ")


def test_per_query_shows_the_worst_first(colours: PairDataset) -> None:
    embedded = embed(ColourEncoder(), colours)
    rows = per_query(embedded, k=3)
    assert rows[0]["text_id"] == 3 and len(rows) == 4
    blue = rows[0]
    assert blue["first_rank"] > 1 and blue["n_relevant"] == 1
    assert blue["top"][0]["image_id"] == "3" and not blue["top"][0]["relevant"]
    assert [row["AP"] for row in rows] == sorted(row["AP"] for row in rows)
    assert len(per_query(embedded, worst=2)) == 2 and len(per_query(embedded, worst=2)[0]["top"]) == 6
    assert float(np.mean([row["AP"] for row in rows])) == pytest.approx(
        score(embedded)["text_to_image"]["mAP"]
    )
    json.dumps(rows)


def test_tables_show_numbers_and_texts(colours: PairDataset) -> None:
    embedded = embed(ColourEncoder(), colours)
    embedded.texts[2] = embedded.texts[2]._replace(text="蓝色[/bold]")  # no markup of ours
    console = Console(file=io.StringIO(), width=160)
    report = score(embedded)
    console.print(metrics_table(report))
    console.print(queries_table(per_query(embedded)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{100 * report['text_to_image']['mAP']:.2f}" in text and "text → image" in text
    assert "蓝色[/bold]" in text and "✗ 3" in text


def test_numbers_are_the_same_from_files_and_from_lmdb(tmp_path: Path) -> None:
    pixels = [(255, 0, 0), (250, 5, 5), (0, 255, 0), (0, 0, 255)]
    write_lines(tmp_path / "x_imgs.tsv", [image_line(i, solid(rgb)) for i, rgb in enumerate(pixels)])
    texts = [
        text_line(1, "红色", [0]),
        text_line(1, "红色", [1]),
        text_line(2, "绿色", [2]),
        text_line(3, "蓝色", [3, 0]),
        text_line(4, "蓝色裙子", [9]),  # no such picture
    ]
    write_lines(tmp_path / "x_texts.jsonl", texts)
    build_lmdb(tmp_path, ["x"])
    from_files = evaluate(ColourEncoder(), PairDataset.from_muge(tmp_path, "x"))
    assert from_files == evaluate(ColourEncoder(), PairDataset(tmp_path / "lmdb" / "x"))
    assert from_files["n_queries"] == 3


def test_nothing_to_score_is_one_line(tmp_path: Path) -> None:
    write_lines(tmp_path / "x_imgs.tsv", [image_line(0, b"broken")])
    write_lines(tmp_path / "x_texts.jsonl", [text_line(1, "红色", [0])])
    with pytest.raises(InputError, match="no readable picture"):
        evaluate(ColourEncoder(), PairDataset.from_muge(tmp_path, "x"))
    write_lines(tmp_path / "x_imgs.tsv", [image_line(0, solid((1, 2, 3)))])
    write_lines(tmp_path / "x_texts.jsonl", [text_line(1, "红色")])
    with pytest.raises(InputError, match="no query has a relevant item"):
        evaluate(ColourEncoder(), PairDataset.from_muge(tmp_path, "x"))
    write_lines(tmp_path / "x_texts.jsonl", [])
    with pytest.raises(InputError, match="no texts"):
        evaluate(ColourEncoder(), PairDataset.from_muge(tmp_path, "x"))
