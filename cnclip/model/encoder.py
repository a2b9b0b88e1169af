"""`Encoder`: a loaded model with its preprocessing and identity; what services, jobs and notebooks use."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cnclip.errors import ImageError, InputError
from cnclip.image import ImageInput, PreprocessConfig, decode_image, resize_pixels
from cnclip.model.batching import length_sorted_batches, text_lengths
from cnclip.model.device import pick_device, pick_dtype
from cnclip.model.dual_encoder import DualEncoder
from cnclip.model.pixels import Normalizer
from cnclip.model.tokens import tokenizer_of

Float32 = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
WEIGHTS_DIR = Path(__file__).parent.parent / "weights"


class Encoder:
    """Texts and pictures to unit-length float32 vectors of one space. Safe to call from several threads."""

    def __init__(
        self,
        model: DualEncoder,
        *,
        name: str,
        fingerprint: str,
        image_fingerprint: str = "",
        autocast: torch.dtype | None = None,
        training: bool = False,
    ) -> None:
        self.model = model
        self.name = name
        self.fingerprint = fingerprint
        self.image_fingerprint = image_fingerprint  # of the image tower: the same picture vectors
        self._autocast, self._training = autocast, training
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self._tokenize = tokenizer_of(model.config)
        self._normalizer = Normalizer(self.preprocess, self.device)

    @property
    def preprocess(self) -> PreprocessConfig:
        return self.model.config.preprocess

    @property
    def dim(self) -> int:
        return self.model.config.vision.embed_dim

    @property
    def context_length(self) -> int:
        config = self.model.config
        return min(config.context_length, config.text.text_max_position_embeddings)

    @property
    def logit_scale(self) -> float:
        """The factor on cosines before a softmax (not its logarithm)."""
        return float(self.model.logit_scale.detach().float().exp())

    @classmethod
    def of_training_model(cls, model: DualEncoder, *, name: str = "training", bf16: bool = False) -> Encoder:
        """Wrap a live model for evaluation: weights are shared, nothing is folded or cast."""
        autocast = torch.bfloat16 if bf16 else None
        return cls(model, name=name, fingerprint="", autocast=autocast, training=True)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Float32:
        """Embed texts. Returns float32 (n, dim), unit length, in the order given."""
        if isinstance(texts, str):
            raise TypeError("encode_texts takes a list of texts, not one string")
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        if not len(texts):
            return out
        ids = self._tokenize(texts, self.context_length)
        lengths = text_lengths(ids)
        with self._inference():
            for rows in length_sorted_batches(lengths, batch_size=batch_size):
                batch = torch.from_numpy(ids[rows, : lengths[rows].max()]).to(self.device)
                out[rows] = self.model.encode_text(batch).cpu().numpy()
        return out

    def encode_images(
        self,
        images: Sequence[ImageInput],
        *,
        batch_size: int = 32,
        on_error: str = "raise",
        skipped: list[tuple[int, ImageError]] | None = None,
    ) -> Float32:
        """Embed pictures (paths, encoded bytes or PIL images), decoding ahead of the model.

        Args:
            on_error: "raise", or "skip": unreadable pictures get no row.
            skipped: if given, receives (index, error) of each skipped picture.

        Returns:
            float32 (n readable, dim), unit length, in the order given.

        Raises:
            ImageError: an unreadable picture, by name, unless skipped.
        """
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip", not {on_error!r}')
        chunks: list[Float32] = []
        for pixels, errors in self._decoded_batches(images, batch_size):
            if errors and on_error == "raise":
                raise errors[0][1]
            if skipped is not None:
                skipped.extend(errors)
            if len(pixels):
                chunks.append(self.encode_pixels(pixels))
        return np.concatenate(chunks) if chunks else np.empty((0, self.dim), dtype=np.float32)

    def _decoded_batches(
        self, images: Sequence[ImageInput], batch_size: int
    ) -> Iterator[tuple[Pixels, list[tuple[int, ImageError]]]]:
        """Batches of pixels and the errors among them; the next batch is decoded while one is in use."""

        def prepare(index: int) -> Pixels | ImageError:
            try:
                return self.prepare_image(images[index], name=_label(images[index], index))
            except ImageError as error:
                return error

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            starts = range(0, len(images), batch_size)
            ahead = [pool.submit(prepare, i) for i in range(min(batch_size, len(images)))]
            for start in starts:
                current, following = (
                    ahead,
                    range(start + batch_size, min(start + 2 * batch_size, len(images))),
                )
                ahead = [pool.submit(prepare, i) for i in following]
                results = [(start + i, future.result()) for i, future in enumerate(current)]
                good = [r for _, r in results if not isinstance(r, ImageError)]
                bad = [(i, r) for i, r in results if isinstance(r, ImageError)]
                size = self.preprocess.size
                yield (np.stack(good) if good else np.empty((0, size, size, 3), np.uint8)), bad

    def prepare_image(self, image: ImageInput, *, name: str | None = None) -> Pixels:
        """Decode and resize one picture: uint8 (size, size, 3). CPU-bound; Pillow releases the GIL."""
        picture = decode_image(image, name=name, min_side=self.preprocess.min_side)
        return resize_pixels(picture, self.preprocess)

    def encode_pixels(self, pixels: Pixels) -> Float32:
        """Embed prepared pictures, uint8 (n, size, size, 3). Returns float32 (n, dim), unit length."""
        if pixels.ndim != 4 or pixels.shape[1:] != (self.preprocess.size, self.preprocess.size, 3):
            raise ValueError(f"pixels must be (n, {self.preprocess.size}, {self.preprocess.size}, 3)")
        with self._inference():
            # (n, H, W, 3) seen as (n, 3, H, W) is already channels-last, which convolutions like best.
            raw = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
            out: Float32 = self.model.encode_image(self.normalize(raw)).cpu().numpy()
            return out

    def normalize(self, raw: Tensor) -> Tensor:
        """uint8 values (n, 3, H, W) to the model's input."""
        return self._normalizer.normalize(raw).to(self.dtype)

    def _inference(self) -> _Inference:
        # transformers keeps some tensors for all its models to come (BEiT's positions).
        trains = self._training or self.model.config.uses_transformers
        return _Inference(self.model, self.device, self._autocast, trains)


class _Inference:
    """Evaluation mode without gradients; restores the model's mode."""

    def __init__(
        self, model: nn.Module, device: torch.device, autocast: torch.dtype | None, training: bool
    ) -> None:
        self._model, self._was_training = model, model.training
        # What a model makes for itself under inference_mode (shards put together), training could not use.
        self._no_grad = torch.no_grad() if training else torch.inference_mode()
        self._cast = torch.autocast(device.type, dtype=autocast) if autocast else nullcontext()

    def __enter__(self) -> None:
        if self._was_training:
            self._model.eval()
        self._no_grad.__enter__()
        self._cast.__enter__()

    def __exit__(self, *exc: object) -> None:
        self._cast.__exit__(None, None, None)
        self._no_grad.__exit__(None, None, None)
        if self._was_training:
            self._model.train()


def _label(image: ImageInput, index: int) -> str:
    return str(image) if isinstance(image, str | Path) else f"picture {index}"


def fold_batch_norm(module: nn.Module) -> None:
    """Merge every BatchNorm into the convolution before it, in place (evaluation only)."""
    children = list(module.named_children())
    for (name, conv), (norm_name, norm) in itertools.pairwise(children):
        # Our towers define each norm right after its convolution, inside and outside of Sequential.
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, nn.Identity())
    for _, child in children:
        fold_batch_norm(child)


def load(name_or_path: str | Path = "lite", device: str | None = None, dtype: str | None = None) -> Encoder:
    """Load a model for inference.

    Args:
        name_or_path: "lite" (in the package), a downloaded model's name, a Chinese-CLIP `.pt`, a Hugging Face
            folder (ChineseCLIP, VisionTextDualEncoder), or a safetensors file of ours.
        device: as torch names it; by default the accelerator if there is one.
        dtype: "float32" | "bfloat16" | "float16"; by default bfloat16 where the hardware has it.

    Raises:
        WeightsError: the file is missing, broken or unsafe. InputError: unknown name, device or dtype.
    """
    from cnclip.model.download import public_models
    from cnclip.model.fingerprint import identify
    from cnclip.model.weights import build_model, load_checkpoint

    target = pick_device(device)
    compute = pick_dtype(dtype, target)
    loaded = load_checkpoint(find_weights(str(name_or_path)))
    identity = identify(loaded.state_dict, loaded.config)
    model = build_model(loaded).requires_grad_(False)
    if loaded.config.vision.tower != "hf":
        fold_batch_norm(model.visual)
    logit_scale = model.logit_scale.detach().clone()
    model = model.to(device=target, dtype=compute)
    model.logit_scale.data = logit_scale.float().to(target)  # in bfloat16 a scale of 100 would read 98.9
    if loaded.config.vision.tower != "vit":
        model.visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    is_name = str(name_or_path) == "lite" or str(name_or_path) in public_models()
    name = str(name_or_path) if is_name else Path(name_or_path).stem
    return Encoder(model.eval(), name=name, fingerprint=identity.whole, image_fingerprint=identity.image)


def find_weights(name_or_path: str) -> Path:
    """The weights file of a model name or path. Raises InputError saying what to do when there is none."""
    from cnclip.model.download import local_path, public_models

    # Names come first, so that a folder called "lite" in the working directory changes nothing.
    if name_or_path == "lite":
        return WEIGHTS_DIR / "lite.safetensors"
    if name_or_path in public_models():
        downloaded = local_path(name_or_path)
        if downloaded is not None:
            return downloaded
        raise InputError(
            f"model {name_or_path!r} is not on this machine; run: cnclip models download {name_or_path}"
        )
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    known = ", ".join(["lite", *public_models()])
    raise InputError(f"model {name_or_path!r}: no such file, and not a known name ({known})")
