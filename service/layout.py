"""Names in a gallery's directory that settings know without importing what reads galleries."""

from __future__ import annotations

MODELS_NAME = "models"  # versions of the model, unless they are kept elsewhere (cnclip/online/versions.py)
JOURNAL_NAME = "journal.sqlite"  # feedback and the query log (service/journal.py)
