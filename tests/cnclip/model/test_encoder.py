from __future__ import annotations

import copy
import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cnclip
from cnclip.errors import ImageError, InputError
from cnclip.image import decode_image, resize_pixels
from cnclip.model.device import cpu_has_bfloat16
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.encoder import Encoder, fold_batch_norm
from cnclip.model.save import save_safetensors
from cnclip.text import tokenize

TEXTS = ["红色连衣裙", "苹果", "", "a long English product title with many words", "“杯子”", "苹果"]


def picture(seed: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def encoder(vit_model: DualEncoder) -> Encoder:
    return Encoder(vit_model, name="tiny", fingerprint="f")


def test_texts_in_batches_equal_texts_alone(encoder: Encoder) -> None:
    """Sorting by length, padding and batching are invisible."""
    together = encoder.encode_texts(TEXTS, batch_size=2)
    alone = np.concatenate([encoder.encode_texts([t]) for t in TEXTS])
    assert together.dtype == np.float32 and together.shape == (6, encoder.dim)
    np.testing.assert_allclose(together, alone, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(together[1], together[5])
    with torch.no_grad():
        model = encoder.model.encode_text(torch.from_numpy(tokenize(TEXTS, encoder.context_length, "max")))
    np.testing.assert_allclose(together, model.numpy(), atol=2e-6)
    assert encoder.encode_texts([]).shape == (0, encoder.dim)
    with pytest.raises(TypeError, match="list of texts"):
        encoder.encode_texts("苹果")


def test_pictures_of_any_kind_in_any_batch_size(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    images = [tmp_path / "a.png", png(2), picture(3), str(tmp_path / "a.png"), png(4)]
    vectors = encoder.encode_images(images, batch_size=2)
    config = encoder.preprocess
    for image, vector in zip(images, vectors, strict=True):
        raw = torch.from_numpy(resize_pixels(decode_image(image, min_side=config.size), config).copy())
        x = (raw.permute(2, 0, 1).float() / 255 - torch.tensor(config.mean).view(3, 1, 1)) / torch.tensor(
            config.std
        ).view(3, 1, 1)
        with torch.no_grad():
            expected = encoder.model.encode_image(x[None])[0].numpy()
        np.testing.assert_allclose(vector, expected, atol=1e-5)
    assert encoder.encode_images([]).shape == (0, encoder.dim)


def test_unreadable_pictures_raise_or_are_skipped_by_name(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no picture")
    images = [png(1), tmp_path / "bad.jpg", png(2), b""]
    with pytest.raises(ImageError, match=r"bad\.jpg: not a picture"):
        encoder.encode_images(images)
    skipped: list[tuple[int, ImageError]] = []
    vectors = encoder.encode_images(images, batch_size=3, on_error="skip", skipped=skipped)
    np.testing.assert_allclose(vectors, encoder.encode_images([png(1), png(2)]), atol=1e-6)
    assert [i for i, _ in skipped] == [1, 3] and "picture 3: empty" in str(skipped[1][1])


def test_threads_share_an_encoder(encoder: Encoder) -> None:
    expected = {text: encoder.encode_texts([text])[0] for text in TEXTS}
    wrong: list[str] = []

    def work(text: str) -> None:
        for _ in range(10):
            if not np.allclose(encoder.encode_texts([text])[0], expected[text], atol=2e-6):
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(text,)) for text in TEXTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_training_model_comes_back_in_training_mode(vit_model: DualEncoder) -> None:
    encoder = Encoder.of_training_model(vit_model.train())
    try:
        first = encoder.encode_texts(["苹果"])
        np.testing.assert_array_equal(first, encoder.encode_texts(["苹果"]))  # no dropout
        assert vit_model.training and torch.is_grad_enabled()
    finally:
        vit_model.eval()


@pytest.mark.parametrize("tower", ["lite_model", "resnet_model"])
def test_folding_batch_norm_changes_nothing(tower: str, request: pytest.FixtureRequest) -> None:
    model: DualEncoder = request.getfixturevalue(tower)
    folded = copy.deepcopy(model)
    fold_batch_norm(folded.visual)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(folded.visual(images), model.visual(images), atol=1e-4, rtol=1e-4)


def test_load_in_every_precision(lite_model: DualEncoder, tmp_path: Path) -> None:
    """The fingerprint names the weights, not the precision they run in."""
    save_safetensors(lite_model, tmp_path / "m.safetensors")
    full = cnclip.load(tmp_path / "m.safetensors", dtype="float32", device="cpu")
    half = cnclip.load(str(tmp_path / "m.safetensors"), dtype="bfloat16", device="cpu")
    assert full.fingerprint == half.fingerprint and len(full.fingerprint) == 64
    assert full.name == "m" and full.dim == 512
    assert half.logit_scale == pytest.approx(full.logit_scale)
    with torch.no_grad():
        expected = lite_model.encode_text(torch.from_numpy(tokenize(TEXTS))).numpy()
    np.testing.assert_allclose(full.encode_texts(TEXTS), expected, atol=1e-5)
    cosine = (full.encode_texts(TEXTS) * half.encode_texts(TEXTS)).sum(1)
    assert cosine.min() > 0.999
    with pytest.raises(InputError, match="unknown dtype 'int3'"):
        cnclip.load(tmp_path / "m.safetensors", dtype="int3")
    with pytest.raises(InputError, match="no such file, and not a known name"):
        cnclip.load("no-such-model")


def test_the_embedded_model_knows_fruit_from_clothes() -> None:
    """The committed weights: words find their kind, in Chinese and through dictionary synonyms."""
    encoder = cnclip.load("lite", device="cpu")
    assert encoder.name == "lite"
    groups = [
        ["苹果", "香蕉", "水果", "葡萄"],
        ["连衣裙", "衬衫", "衣服", "牛仔裤"],
        ["狗", "猫", "小狗", "动物"],
    ]
    words = [w for g in groups for w in g]
    vectors = encoder.encode_texts(words)
    similarity = vectors @ vectors.T - 2 * np.eye(len(words))
    same = [any(words[j] in g and words[i] in g for g in groups) for i, j in enumerate(similarity.argmax(1))]
    assert all(same)
    if cpu_has_bfloat16():
        assert encoder.dtype == torch.bfloat16
