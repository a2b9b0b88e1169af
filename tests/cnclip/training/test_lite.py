from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cnclip.errors import InputError
from cnclip.model.config import named_config
from cnclip.model.efficientnet import EfficientNetLite
from cnclip.training.distill import CorpusBatches
from cnclip.training.lite import _open_vocabulary, follow_queries, load_imagenet_tower, project_classifier
from cnclip.training.text_space import Corpus, TextSpace
from preprocess.lite_corpus import glosses, join_synonyms


def unit(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_projection_follows_the_classifier() -> None:
    """With enough dimensions the nearest class vector is the classifier's answer."""
    tower = EfficientNetLite(named_config("EfficientNet-Lite0", "RBT-tiny-chinese").vision)
    g = torch.Generator().manual_seed(0)
    classifier = torch.randn(60, 1280, generator=g), torch.randn(60, generator=g)
    vectors = unit(60, 512, seed=1)
    project_classifier(tower, classifier, vectors, ridge=1e-3)
    features = torch.randn(200, 1280, generator=g)
    answers = (features @ classifier[0].T + classifier[1]).argmax(1)
    with torch.no_grad():
        nearest = (F.normalize(tower.proj(features), dim=1) @ vectors.T).argmax(1)
    assert (answers == nearest).float().mean() > 0.97


def test_public_weights_are_matched_by_position_and_shape() -> None:
    tower = EfficientNetLite(named_config("EfficientNet-Lite0", "RBT-tiny-chinese").vision)
    own = {k: v for k, v in tower.state_dict().items() if not k.startswith("proj.")}
    public = {f"_layer{i}": torch.full_like(v, i % 7) for i, v in enumerate(own.values())}
    public |= {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    load_imagenet_tower(tower, public)
    assert all((v == i % 7).all() for i, v in enumerate(own[k] for k in own))
    broken = {**public, "_layer0": torch.zeros(2, 2)}
    with pytest.raises(ValueError, match="_layer0"):
        load_imagenet_tower(tower, broken)


def test_words_follow_the_queries_they_mean() -> None:
    query_targets = F.one_hot(torch.tensor([0, 1]), 4).float()
    queries = F.one_hot(torch.tensor([2, 1]), 4).float()  # the first query moved, the second stayed
    words = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])
    moved = follow_queries(words, query_targets, queries)
    expected = torch.tensor([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])
    assert torch.allclose(moved, expected, atol=1e-3)


def test_open_vocabulary_leaves_like_meanings_open() -> None:
    """Two photos, two queries, one emoji title, three words: like query 0, like the title, like nothing."""
    texts = F.one_hot(torch.tensor([0, 1, 2, 0, 2, 3]), 4).float()
    labels = torch.tensor([[True, False], [False, True]])
    relevance, ignore = _open_vocabulary(labels, 1, texts)
    assert relevance.int().tolist() == [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]
    assert ignore.int().tolist() == [[0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0]]


def make_corpus(folder: Path, n: int = 40) -> None:
    words = [chr(0x4E00 + 7 * i) * (1 + i % 5) for i in range(n)]
    (folder / "texts.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    np.save(folder / "teacher.npy", unit(n, 512).numpy().astype(np.float16))


def test_corpus_batches_resume_and_cover(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    corpus = Corpus.load(tmp_path, dim=16, context_length=8)
    assert corpus.targets.shape == (40, 16)
    source = CorpusBatches(corpus, 8, seed=1)
    stream = source.iterate(0)
    epoch = [next(stream) for _ in range(source.steps_per_epoch)]
    assert sum(len(b["text"]) for b in epoch) == 40
    again = next(source.iterate(3))
    assert torch.equal(again["text"], epoch[3]["text"]) and torch.equal(again["target"], epoch[3]["target"])


def test_broken_corpus_is_said(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    (tmp_path / "texts.txt").write_text("一\n", encoding="utf-8")
    with pytest.raises(InputError, match="1 texts but 40 teacher rows"):
        Corpus.load(tmp_path, dim=16, context_length=8)
    with pytest.raises(InputError, match="not a text corpus"):
        Corpus.load(tmp_path / "nowhere", dim=16, context_length=8)


def test_text_space_keeps_angles_of_centred_vectors() -> None:
    teacher = unit(2000, 512, seed=3)
    space = TextSpace.fit(teacher, 512)
    centred = F.normalize(teacher - space.mean, dim=1)
    assert torch.allclose(space(teacher[:9]) @ space(teacher[:9]).T, centred[:9] @ centred[:9].T, atol=1e-4)


def test_synonyms_meet_and_others_stay() -> None:
    vectors = unit(4, 64).numpy()
    joined = join_synonyms(vectors, ["potato; tuber", "a potato", "sweet potato", ""])
    assert float(joined[0] @ joined[1]) > float(vectors[0] @ vectors[1]) + 0.4
    assert np.allclose(joined[2:], vectors[2:], atol=1e-6)


def test_glosses_are_plain_english() -> None:
    assert glosses(["(dialect) potato", "CL:個|个[ge4]", "variant of 土[tu3]", "spud"]) == ["potato", "spud"]
