"""Which folder a query's pictures are in.

Online-CNCLIP names the folder after the query: stripped, without spaces, without Chinese punctuation. We keep
that name, so that its code and ours read each other's caches, wherever it is a usable one; else the folder is
named by a hash of the query. Two queries may have one plain name ("A B" and "AB"): `cache.picture_cache`
decides who gets it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

MAX_NAME_BYTES = 200  # of UTF-8; file systems allow 255, encrypted ones less

# U+0020 and the 81 characters of `zhon.hanzi.punctuation` in zhon 1.1.5, the version Online-CNCLIP asks for
# (read off the published package; zhon 2.1 has U+FF0E too).
_DROPPED = re.compile(
    "[ \u00b7\u2013\u2014\u2018\u2019\u201b-\u201f\u2026\u2027\u3000-\u3003\u3008-\u3011\u3014-\u301f\u3030"
    "\u303e\u303f\ufe4f\ufe51\ufe54\uff01-\uff0d\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff64]"
)
_UNFIT = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # separators, controls, half surrogate pairs
_HASHED = re.compile(r"q_[0-9a-f]{16}")
# learn.microsoft.com, "Naming Files, Paths, and Namespaces": reserved with any extension too.
_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])(\..*)?", re.DOTALL
)


def canonical(query: str) -> str:
    """The query as it is stored: a character given as two halves of a surrogate pair becomes that character
    (JSON cannot tell them apart). Nothing else changes; a query is its exact text."""
    return query.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def plain_name(query: str) -> str | None:
    """The folder name in Online-CNCLIP's caches, or None where it is not usable as one.

    Not usable: empty, beginning with a dot, with a separator, control character or half a surrogate pair,
    longer than MAX_NAME_BYTES, reserved by Windows, or looking like `hashed_name`.
    """
    name = _DROPPED.sub("", canonical(query).strip())
    if not name or name.startswith(".") or _UNFIT.search(name) or len(name.encode()) > MAX_NAME_BYTES:
        return None
    key = clash_key(name)
    return None if _HASHED.match(key) or _RESERVED.fullmatch(key) else name


def hashed_name(query: str) -> str:
    """`q_` and the first 16 hex digits of the SHA-1 of the query's UTF-8."""
    return f"q_{hashlib.sha1(canonical(query).encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def directory_name(query: str) -> str:
    """The name of the query's folder where no other query has it."""
    return plain_name(query) or hashed_name(query)


def clash_key(name: str) -> str:
    """Equal for two names that some file system takes for one: macOS and Windows ignore case, macOS also the
    way accents are composed, Windows a dot at the end."""
    folded = unicodedata.normalize("NFD", name).casefold()
    return unicodedata.normalize("NFC", folded).rstrip(".")


def is_safe_name(name: str) -> bool:
    """Whether `name` can be a folder of a cache: one visible path component, in UTF-8, at most 255 bytes."""
    return bool(name) and not name.startswith(".") and not _UNFIT.search(name) and len(name.encode()) <= 255
