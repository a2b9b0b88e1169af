"""Models of a prediction job: where they are looked up, and how long their texts may be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cnclip.errors import InputError

if TYPE_CHECKING:
    from cnclip.model.encoder import Encoder


def find_model(name: str, folder: Path | None) -> str:
    """A file of `folder` (DATAPATH/resume) if it has one of that name, else `name` as `cnclip.load` takes it.

    Raises:
        InputError: neither there nor a path nor a known name.
    """
    from cnclip.model.encoder import find_weights

    if folder is not None and (folder / name).exists():
        return str(folder / name)
    try:
        find_weights(name)
    except InputError as error:
        if folder is None:
            raise
        raise InputError(f"{error}; {folder / name} is not there either") from None
    return name


def load_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    context_length: int | None = None,
) -> Encoder:
    """Load a model for prediction.

    Args:
        context_length: most tokens of a text; the model's own by default.

    Raises:
        WeightsError, InputError: as `cnclip.load`; a context length that the model cannot have.
    """
    import cnclip

    encoder = cnclip.load(name, device=device, dtype=dtype)
    if context_length is not None:
        most = encoder.model.config.text.text_max_position_embeddings
        if not 3 <= context_length <= most:
            raise InputError(f"--context-length: {context_length} is not between 3 and {most} ({name})")
        encoder.model.config = replace(encoder.model.config, context_length=context_length)
    return encoder
