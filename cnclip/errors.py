"""Errors a user can cause or cure. Each message is one line that names file, line and field."""

from __future__ import annotations


class CnclipError(Exception):
    """Base class; entry points print the message as one line and exit with code 2."""


class InputError(CnclipError):
    """Bad input data or settings (a broken row, an unknown name, a missing file)."""


class ImageError(InputError):
    """A picture that cannot be read; the message names it and says why."""


class WeightsError(InputError):
    """A weights file that is truncated, unsafe, or does not fit the architecture."""


class ModelMismatchError(CnclipError):
    """Two artefacts (gallery, cache, feature file) made by different models were mixed."""
