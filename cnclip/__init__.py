"""Chinese cross-modal retrieval: CN-CLIP towers, training, evaluation.

Heavy parts load on first use, so that `import cnclip` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnclip.model.encoder import Encoder, load
    from cnclip.text import tokenize

__version__ = "0.1.0"
__all__ = ["Encoder", "__version__", "available_models", "load", "tokenize"]

_LAZY = {"Encoder": "cnclip.model.encoder", "load": "cnclip.model.encoder", "tokenize": "cnclip.text"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'cnclip' has no attribute {name!r}")


def available_models() -> list[str]:
    """Names that `load` understands: the embedded model and the public Chinese-CLIP checkpoints."""
    from cnclip.model.download import public_models

    return ["lite", *public_models()]
