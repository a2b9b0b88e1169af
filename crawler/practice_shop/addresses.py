"""Addresses of pictures: everything there is to know about a picture is in its address.

    /imgextra/i3/2208141/O1CN01<query>_!!7-ok.jpg_360x360q90.jpg_.webp

is picture 7 of a query (base64 of its UTF-8), kind "ok", made to fit 360 x 360 pixels, as WebP.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from crawler.practice_shop.label import label_of

BLANK = "/imgextra/i4/O1CN01CYtPWu1MUBqQAUK9D_!!6000000001437-2-tps-2-2.png"  # the 2 x 2 stand-in
BLANK_GIF = "/s.gif"
ICON = "/imgextra/i1/O1CN01Kd0fGz1dp0c4nQ4sX_!!6000000003784-2-tps-42-27.png"
_PICTURE = re.compile(
    r"/imgextra/i\d/\d+/O1CN01(?P<code>[A-Za-z0-9_-]*)_!!(?P<number>\d{1,6})-(?P<kind>[a-z0-9_]+)"
    r"\.(?P<extension>jpg|png|gif)"
    r"(?:_(?P<width>\d{1,4})x(?P<height>\d{1,4})(?:[qQ]\d{1,2})?(?:\.jpg)?|_[qQ]\d{1,2}\.jpg)?"
    r"(?P<webp>_\.webp)?"
)


@dataclass(frozen=True)
class PictureAddress:
    """What an address says. box: the size to fit in, pixels; None: the original. webp: sent as WebP."""

    query: str
    number: int
    kind: str
    extension: str = "jpg"
    box: tuple[int, int] | None = None
    webp: bool = False


def picture_path(query: str, number: int, kind: str = "ok", extension: str = "jpg") -> str:
    """Path of an original picture."""
    code = base64.urlsafe_b64encode(query.encode("utf-8", "surrogatepass")).decode().rstrip("=")
    seller = int(label_of(query)[:6], 16)
    return f"/imgextra/i{number % 4 + 1}/{seller}/O1CN01{code}_!!{number}-{kind}.{extension}"


def read_picture_path(path: str) -> PictureAddress | None:
    """What the path of a picture says; None if it is not one."""
    match = _PICTURE.fullmatch(path)
    if match is None:
        return None
    code = match["code"]
    try:
        query = base64.urlsafe_b64decode(code + "=" * (-len(code) % 4)).decode("utf-8", "surrogatepass")
    except (binascii.Error, UnicodeDecodeError):
        return None
    box = (max(1, int(match["width"])), max(1, int(match["height"]))) if match["width"] else None
    return PictureAddress(
        query, int(match["number"]), match["kind"], match["extension"], box, match["webp"] is not None
    )
