"""Chinese-CLIP's public weight files: where they are, what they must hash to, and fetching them.

Imports no torch, so that listing models stays quick. Sizes and SHA-256 are those of the files the authors
uploaded (Git LFS records of the OFA-Sys repositories, November 2022).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cnclip.errors import InputError
from cnclip.model.fetch import Progress, fetch

MIRROR_VARIABLE = "CNCLIP_MIRROR"
MODELS_DIR_VARIABLE = "CNCLIP_MODELS_DIR"
_SOURCES = (
    "https://huggingface.co/OFA-Sys/{repository}/resolve/main/{file}",
    "https://clip-cn-beijing.oss-cn-beijing.aliyuncs.com/checkpoints/{file}",
    "https://modelscope.cn/models/AI-ModelScope/{repository}/resolve/master/{file}",
)


@dataclass(frozen=True)
class PublicModel:
    """A released checkpoint. parameters: of both towers together."""

    name: str
    text_name: str
    repository: str
    size_bytes: int
    sha256: str
    parameters: int

    @property
    def file(self) -> str:
        return f"clip_cn_{self.name.lower()}.pt"

    def urls(self, mirror: str | None = None) -> list[str]:
        """Where to look, best first. `mirror`: a base address (in the layout of the Hugging Face hub, or with
        the files right below it), or a pattern with {file} and {repository}; it replaces the public places.
        """
        mirror = mirror or os.environ.get(MIRROR_VARIABLE) or None
        if mirror is None:
            patterns: tuple[str, ...] = _SOURCES
        elif "{file}" in mirror:
            patterns = (mirror,)
        else:
            base = mirror.rstrip("/")
            patterns = (f"{base}/OFA-Sys/{{repository}}/resolve/main/{{file}}", f"{base}/{{file}}")
        return [p.replace("{repository}", self.repository).replace("{file}", self.file) for p in patterns]


_BASE, _LARGE, _RBT3 = "RoBERTa-wwm-ext-base-chinese", "RoBERTa-wwm-ext-large-chinese", "RBT3-chinese"
_PUBLIC = (
    PublicModel(
        name="ViT-B-16",
        text_name=_BASE,
        repository="chinese-clip-vit-base-patch16",
        size_bytes=753_196_934,
        sha256="5997ef32c50de18f3ac06eb5d746c324a639053c3bed8f2986f97ebb22b2ecde",
        parameters=188_262_913,
    ),
    PublicModel(
        name="ViT-L-14",
        text_name=_BASE,
        repository="chinese-clip-vit-large-patch14",
        size_bytes=1_625_135_766,
        sha256="26a0d4ac248fcea33e8c1e32c22a80def0fe9b1770b429129dfcc04bcd978d28",
        parameters=406_233_089,
    ),
    PublicModel(
        name="ViT-L-14-336",
        text_name=_BASE,
        repository="chinese-clip-vit-large-patch14-336px",
        size_bytes=1_626_446_358,
        sha256="53b9a3141f14b2e87366b0857ce78ac1c4c99e028d4d3d832ca8107deae0775b",
        parameters=406_560_769,
    ),
    PublicModel(
        name="ViT-H-14",
        text_name=_LARGE,
        repository="chinese-clip-vit-huge-patch14",
        size_bytes=3_830_716_726,
        sha256="4549b1a9775db38806dfa398e8e97be4e27299b84b71250d8d2ef0472e708aee",
        parameters=957_598_209,
    ),
    PublicModel(
        name="RN50",
        text_name=_RBT3,
        repository="chinese-clip-rn50",
        size_bytes=308_316_425,
        sha256="b196ee3ee528b70be1158ab1aafb1d2f1c801ad2d9ffb3bae31b0d305f82fc88",
        parameters=76_989_537,
    ),
)


def public_models() -> dict[str, PublicModel]:
    """The released models by name, in the order of their release notes."""
    return {model.name: model for model in _PUBLIC}


def models_dir() -> Path:
    """Where downloads go: $CNCLIP_MODELS_DIR, or ~/.cache/cnclip."""
    return Path(os.environ.get(MODELS_DIR_VARIABLE) or Path.home() / ".cache" / "cnclip").expanduser()


def local_path(name: str) -> Path | None:
    """The whole file of a public model on this machine, ours or in Chinese-CLIP's own cache, else None."""
    model = public_models()[name]
    for folder in (models_dir(), Path.home() / ".cache" / "clip"):
        path = folder / model.file
        if path.is_file() and path.stat().st_size == model.size_bytes:
            return path
    return None


def download(
    name: str, *, folder: Path | None = None, mirror: str | None = None, progress: Progress | None = None
) -> Path:
    """Fetch a public model unless it is there already; an interrupted download goes on where it stopped.

    Raises: InputError with one line: unknown name, no network, wrong content, no space.
    """
    models = public_models()
    if name not in models:
        raise InputError(f"unknown model {name!r}; known: {', '.join(models)}")
    model = models[name]
    if folder is None and (present := local_path(name)) is not None:
        return present
    target = (folder or models_dir()) / model.file
    if not (target.is_file() and target.stat().st_size == model.size_bytes):
        fetch(model.urls(mirror), target, size_bytes=model.size_bytes, sha256=model.sha256, progress=progress)
    return target
