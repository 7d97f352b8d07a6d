"""Images and videos as a request carries them: an address to fetch, or the bytes themselves. Pure.

Nothing is fetched here; whoever runs the model does that.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Literal

__all__ = ["address", "data_uri", "image_type"]

_WEB = re.compile(r"https?://[^\s\x00-\x1f\x7f/?#]+[^\s\x00-\x1f\x7f]*", re.IGNORECASE)
_DATA = re.compile(r"data:(image|video)/[a-z0-9.+-]+;base64,[A-Za-z0-9+/]+={0,2}", re.IGNORECASE)
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)


def address(text: str, kind: Literal["image", "video"], max_bytes: int) -> str | None:
    """Why a text is no address of an image or video; ``None`` when it is one.

    ``http``, ``https``, and ``data`` in base64 with at most ``max_bytes`` bytes.
    """
    if _WEB.fullmatch(text):
        return None
    data = _DATA.fullmatch(text)
    if data is None or data[1].lower() != kind:
        return f"{kind} is not an http, https or data URL"
    size = (len(text) - text.index(",") - 1) * 3 // 4
    return f"{kind} is larger than {max_bytes} bytes" if size > max_bytes else None


def image_type(raw: bytes) -> str | None:
    """The media type of an image by its first bytes: PNG, JPEG, GIF, WebP, BMP or TIFF; ``None`` for anything else."""
    if raw[:4] == b"RIFF" and raw[8:12] == b"WEBP":
        return "image/webp"
    return next((media for signature, media in _SIGNATURES if raw.startswith(signature)), None)


def data_uri(raw: bytes, media: str) -> str:
    """The bytes as an address that holds them."""
    return f"data:{media};base64,{b64encode(raw).decode()}"
