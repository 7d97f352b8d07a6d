"""Images and videos as a request carries them: an address to fetch, or the bytes themselves. Pure.

Nothing is fetched here; whoever runs the model does that.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Images", "address", "data_uri", "image_type", "is_url", "too_large"]

# Possessive: nothing is tried twice, so that a long text which is no address takes time by its length, not its square.
_WEB = re.compile(r"https?://[^\s\x00-\x1f\x7f/?#]++[^\s\x00-\x1f\x7f]*+", re.IGNORECASE)
_DATA = re.compile(r"data:(image|video)/[a-z0-9.+-]+;base64,[A-Za-z0-9+/]+={0,2}", re.IGNORECASE)
_URL = re.compile(r"(?:https?|data):", re.IGNORECASE)
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)


class Images(Protocol):
    """Where images are that rows name by a path."""

    def read(self, paths: Sequence[str]) -> list[bytes | str]:
        """For each path the image, or why there is none, in the same words for the same cause."""

    def sizes(self, paths: Sequence[str]) -> list[int]:
        """Bytes that ``read`` brings into memory for each."""


def is_url(text: str) -> bool:
    """Whether a text means to be an address, right or wrong, and no path of a file."""
    return _URL.match(text) is not None


def too_large(kind: Literal["image", "video"], most_bytes: int) -> str:
    """Why an image or video is not sent."""
    return f"{kind} is larger than {most_bytes} bytes"


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
    return too_large(kind, max_bytes) if size > max_bytes else None


def image_type(raw: bytes) -> str | None:
    """The media type of an image by its first bytes: PNG, JPEG, GIF, WebP, BMP or TIFF; ``None`` for anything else."""
    if raw[:4] == b"RIFF" and raw[8:12] == b"WEBP":
        return "image/webp"
    return next((media for signature, media in _SIGNATURES if raw.startswith(signature)), None)


def data_uri(raw: bytes, media: str) -> str:
    """The bytes as an address that holds them."""
    return f"data:{media};base64,{b64encode(raw).decode()}"
